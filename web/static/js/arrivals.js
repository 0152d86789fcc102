// The enroll page lights up: hosts that appear, and come online, while the command is being run on the device.

export function startArrivals() {
  const place = document.querySelector("[data-arrivals]");
  if (place) document.addEventListener("fleetward:change", (event) => onChange(place, event.detail));
}

function onChange(place, change) {
  if (change.kind !== "host" || !change.resource) return;
  const known = place.querySelector(`[data-host="${CSS.escape(change.id)}"]`);
  if (change.op === "created") show(place, change.resource);
  else if (known) fill(known, change.resource);
}

function show(place, host) {
  const item = document.createElement("li");
  item.dataset.host = host.id;
  fill(item, host);
  place.classList.add("lit");
  place.querySelector("span:not(.pulse)").textContent = "Here it is:";
  place.querySelector("ul").append(item);
}

function fill(item, host) {
  const link = document.createElement("a");
  link.href = `/hosts/${encodeURIComponent(host.id)}`;
  link.textContent = host.title || host.name;
  const state = host.presence === "online" ? "online" : host.presence === "never" ? "enrolled, not connected yet" : host.presence;
  item.replaceChildren(link, ` ${state}${host.desired_state === "registered" ? ", waits for approval" : ""}`);
}
