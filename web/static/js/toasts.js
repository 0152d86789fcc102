// Toasts: what people are told, on every page, when it happens. Texts come from devices too, so that they are only ever set as text.

const MOST = 4;
const ICONS = { info: "info", good: "circle-check", warning: "triangle-alert", error: "circle-x", critical: "circle-x" };
const TONES = { info: "info", good: "good", warning: "warn", error: "bad", critical: "bad" };
const STAYS_MS = { info: 8000, good: 5000, warning: 16000, error: 0, critical: 0 };

export function toast({ severity, message, link = "", fresh = false }) {
  const place = document.getElementById("toasts");
  const template = document.getElementById("toast");
  if (!place || !template) return;
  const shown = template.content.firstElementChild.cloneNode(true);
  shown.classList.add(TONES[severity] ?? "info");
  shown.setAttribute("role", STAYS_MS[severity] === 0 ? "alert" : "status");
  const use = shown.querySelector("use");
  use.setAttribute("href", use.getAttribute("href").replace(/#.*/, `#${ICONS[severity] ?? "info"}`));
  shown.querySelector("p").textContent = message;
  const anchor = shown.querySelector("a");
  if (link) anchor.href = link;
  if (fresh) anchor.target = "_blank"; // a tab of its own: this one holds something
  anchor.hidden = !link;
  shown.querySelector("button").addEventListener("click", () => shown.remove());
  place.append(shown);
  while (place.children.length > MOST) place.firstElementChild.remove();
  if (STAYS_MS[severity]) leaveAfter(shown, STAYS_MS[severity]);
}

// Not while somebody reads it.
function leaveAfter(shown, ms) {
  setTimeout(() => (shown.matches(":hover, :focus-within") || document.hidden ? leaveAfter(shown, ms) : shown.remove()), ms);
}
