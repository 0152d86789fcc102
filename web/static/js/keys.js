// The keyboard: where to go, rows up and down, the filter, the palette, the sheet of keys. Nothing while somebody types.

import { cycle } from "./preferences.js";

const GO = { o: "/", h: "/hosts", c: "/configs", p: "/places", e: "/events", n: "/notifications", a: "/enroll", u: "/access" };
const GO_MS = 1200;
let going = 0;

export function startKeys() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener) open(opener.dataset.open);
    else onRowClick(event);
  });
  const palette = document.getElementById("palette");
  palette?.addEventListener("keydown", onPaletteKey);
  palette?.addEventListener("click", (event) => event.target === palette && palette.close());
}

function open(id) {
  const dialog = document.getElementById(id);
  if (!dialog || dialog.open) return;
  dialog.showModal();
  if (id !== "palette") return;
  dialog.querySelector("input").select();
  document.body.dispatchEvent(new CustomEvent("find"));
}

const typing = (target) => target.closest("input, textarea, select, [contenteditable]");

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    open("palette");
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (Date.now() < going && GO[event.key]) {
    location.href = GO[event.key];
    return;
  }
  const act = ACTS[event.key];
  if (act && act(event) !== false) event.preventDefault();
}

const ACTS = {
  "/": () => { const input = document.querySelector("[data-filter]"); input?.focus(); input?.select(); return Boolean(input); },
  "?": () => open("keys"),
  g: () => { going = Date.now() + GO_MS; },
  j: () => step(1),
  k: () => step(-1),
  n: () => follow("next"),
  p: () => follow("prev"),
  t: () => cycle("theme"),
  d: () => cycle("density"),
  ".": () => document.querySelector("[data-take]:not([hidden])")?.click(),
};

const follow = (rel) => { const link = document.querySelector(`a[rel="${rel}"]`); link?.click(); return Boolean(link); };

function step(by) {
  const rows = [...document.querySelectorAll("[data-href]")];
  if (!rows.length) return false;
  const at = rows.indexOf(document.activeElement.closest?.("[data-href]"));
  const row = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  const link = row.querySelector("a") ?? row;
  link.focus();
  row.scrollIntoView({ block: "nearest" });
  return true;
}

function onRowClick(event) {
  const row = event.target.closest("[data-href]");
  if (!row || event.target.closest("a, button, input, select, label, summary, form") || String(getSelection())) return;
  location.href = row.dataset.href;
}

function onPaletteKey(event) {
  const options = [...event.currentTarget.querySelectorAll("[role=option]")];
  const at = options.indexOf(document.activeElement);
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const next = event.key === "ArrowDown" ? at + 1 : at - 1;
    (options[next] ?? event.currentTarget.querySelector("input")).focus();
  } else if (event.key === "Enter" && at < 0 && options[0]) {
    event.preventDefault();
    options[0].click();
  }
}
