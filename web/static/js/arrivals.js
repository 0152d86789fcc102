// The enroll page lights up: hosts that appear, wait, are let in and come online, while the command is being run on the device.

export function startArrivals() {
  const place = document.querySelector("[data-arrivals]");
  if (place) document.addEventListener("fleetward:change", (event) => onChange(place, event.detail));
}

function onChange(place, change) {
  // A host that comes into a scope, or leaves it, by somebody's change of its labels arrives from nowhere.
  if (change.kind !== "host" || !change.resource || change.scope) return;
  const known = place.querySelector(`[data-host="${CSS.escape(change.id)}"]`);
  if (change.op === "created" && !isExpected(change.resource)) show(place, change.resource);
  else if (isExpected(change.resource) && cameOnline(change) && !known) show(place, change.resource);
  else if (known && change.op === "deleted") goOn(known, change.resource);
  else if (known) fill(known, change.resource);
}

// Written down before its machine comes: it is no arrival until it is online.
const isExpected = (host) => Boolean(host.expected_serial || host.expected_uuid);

const cameOnline = (change) => change.op === "updated" && change.changed.includes("presence") && change.resource.presence === "online";

function show(place, host) {
  const item = document.createElement("li");
  item.dataset.host = host.id;
  fill(item, host);
  place.classList.add("lit");
  place.querySelector("span:not(.pulse)").textContent = "Here it is:";
  place.querySelector("ul").append(item);
}

// What waited has become the host that it replaces, or was sent away.
function goOn(item, host) {
  if (host.replaces && host.desired_state === "onboarded") {
    item.dataset.host = host.replaces;
    item.replaceChildren(linkTo(host.replaces, host.title || host.name), " has taken its place, not connected yet");
  } else {
    item.replaceChildren(`${host.title || host.name} is gone`);
  }
}

function fill(item, host) {
  item.replaceChildren(linkTo(host.id, host.title || host.name), ` ${stateOf(host)}`);
}

function linkTo(id, text) {
  const link = document.createElement("a");
  link.href = `/hosts/${encodeURIComponent(id)}`;
  link.textContent = text;
  return link;
}

function stateOf(host) {
  if (host.desired_state === "untrusted") return "is refused";
  if (host.presence === "online") return host.desired_state === "registered" ? "online, gets nothing until it is onboarded" : "online";
  if (host.presence !== "never") return host.presence;
  return host.desired_state === "registered" ? "waits for approval" : "let in, not connected yet";
}
