// <relative-time datetime="…">: "5 min ago", kept up to date, with the absolute time in the viewer's zone on hover. One timer for all.

const STEPS = [[31536000, "y"], [2592000, "mo"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const all = new Set();

export function ago(at, now = Date.now()) {
  const seconds = (now - at) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  const [size, unit] = STEPS.find(([size]) => Math.abs(seconds) >= size);
  const count = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
  return seconds > 0 ? `${count} ago` : `in ${count}`;
}

class RelativeTime extends HTMLElement {
  static observedAttributes = ["datetime"];

  connectedCallback() {
    all.add(this);
    this.show();
  }

  disconnectedCallback() {
    all.delete(this);
  }

  attributeChangedCallback() {
    this.show();
  }

  show() {
    const at = Date.parse(this.getAttribute("datetime"));
    if (Number.isNaN(at)) return;
    const text = ago(at);
    if (this.textContent !== text) this.textContent = text;
    const title = absolute.format(at);
    if (this.title !== title) this.title = title;
  }
}

customElements.define("relative-time", RelativeTime);
setInterval(() => document.hidden || all.forEach((each) => each.show()), 5000);
document.addEventListener("visibilitychange", () => document.hidden || all.forEach((each) => each.show()));
