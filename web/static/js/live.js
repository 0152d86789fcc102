// The live page: one stream of changes, and what of the page they concern fetched again and morphed in place.
//
// `[data-live="kind …"]` with an id is a region; `data-live-id` and `data-live-host` narrow it. `table[data-rows]` has rows by id that are
// fetched alone; changes of others that could belong on the list are counted, and taken in when the reader asks. The stream stops while
// the page is hidden, since browsers allow six connections to a server, and goes on where it was.

import { sayYouAreOut, typedSomething } from "./forms.js";
import { toast } from "./toasts.js";

const QUIET_MS = 200; // changes come in bursts: one commit of a manager is several
const PAUSE_MS = 1000; // a region is fetched at most this often
const HIDDEN_MS = 20000;
const FLOOD = 4; // more notifications than that at once become one toast
const ROWS_AT_ONCE = 100;

const told = [];
const dirty = new Set();
const fresh = new Set();
let source = null;
let position = null;
let regionsWanted = false;
let timer = 0;
let lastFetch = 0;
let hiddenTimer = 0;
let told401 = false;

export function startLive() {
  if (!document.body.hasAttribute("data-position")) return;
  position = document.body.dataset.position || null;
  connect();
  document.addEventListener("visibilitychange", onVisibility);
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => event.persisted && connect());
  document.addEventListener("click", (event) => event.target.closest("[data-take]") && takeIn());
  document.addEventListener("htmx:afterSettle", (event) => event.target.id === "list" && forgetNews());
}

function connect() {
  if (source) return;
  const after = position === null ? "" : `?after=${position}`;
  source = new EventSource(`/api/v1/events/stream${after}`);
  source.addEventListener("open", () => say("live", "live"));
  source.addEventListener("change", (event) => onChange(JSON.parse(event.data)));
  source.addEventListener("gone", startAnew);
  source.addEventListener("error", onError);
}

function disconnect() {
  source?.close();
  source = null;
}

function onError() {
  if (source?.readyState !== EventSource.CLOSED) {
    say("waiting", "reconnecting");
    return;
  }
  // Refused: signed out, or the position can't be read any more. What the page shows is old either way.
  disconnect();
  say("lost", "not live");
  setTimeout(retry, 5000);
}

async function retry() {
  const answer = await fetch("/api/v1/whoami").catch(() => null);
  if (answer?.status === 401 && !typedSomething()) location.reload();
  else if (answer?.ok) startAnew();
  else setTimeout(retry, 5000);
  if (answer?.status === 401 && typedSomething() && !told401) sayYouAreOut();
  told401 = answer?.status === 401;
}

function startAnew() {
  disconnect();
  position = null;
  connect();
  wantRegions();
}

function onVisibility() {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(disconnect, HIDDEN_MS);
  else connect();
}

function say(state, text) {
  const shown = document.getElementById("live");
  if (!shown || shown.dataset.state === state) return;
  shown.dataset.state = state;
  shown.querySelector("span").textContent = text;
}

function onChange(change) {
  position = change.position;
  if (change.kind === "notification") onNotification(change);
  document.dispatchEvent(new CustomEvent("fleetward:change", { detail: change }));
  onRows(change);
  if ([...document.querySelectorAll("[data-live]")].some((region) => concerns(region.dataset, change))) wantRegions();
}

function concerns(data, change) {
  if (!data.live.split(" ").includes(change.kind)) return false;
  if (data.liveId) return change.id === data.liveId;
  return !data.liveHost || change.host === data.liveHost;
}

// --- notifications

function onNotification(change) {
  const note = change.resource;
  if (change.op === "created") {
    if (!note.read_at) count(1);
    // What came into a scope with its host is no news.
    if (!change.scope && told.push(note) === 1) setTimeout(tell, 150);
  } else if (change.changed.includes("read_at") || (change.op === "deleted" && !note.read_at)) {
    count(-1);
  }
}

function tell() {
  const notes = told.splice(0);
  if (notes.length > FLOOD) {
    const worst = ["critical", "error", "warning", "info"].find((each) => notes.some((note) => note.severity === each));
    toast({ severity: worst, message: `${notes.length} notifications`, link: "/notifications" });
    return;
  }
  for (const note of notes) {
    toast({ severity: note.severity, message: note.message, link: note.host ? `/hosts/${encodeURIComponent(note.host)}` : "/notifications" });
  }
}

function count(by) {
  const badge = document.getElementById("unread");
  if (!badge) return;
  const unread = Math.max(0, Number(badge.textContent) + by);
  badge.textContent = unread;
  badge.hidden = unread === 0;
}

// --- rows

function onRows(change) {
  const table = document.querySelector("table[data-rows]");
  const id = change.kind === table?.dataset.kind ? change.id : change.host;
  if (!table || !id) return;
  if (document.getElementById(`row-${id}`)) {
    dirty.add(id);
    schedule();
  } else if (change.kind === table.dataset.kind && matters(table, change)) {
    fresh.add(id);
    showNews();
  }
}

function matters(table, change) {
  if (change.op !== "updated") return true;
  const watched = table.dataset.watched.split(" ");
  return change.changed.some((path) => watched.includes(path.split(".")[0]) || (path.startsWith("effective_labels") && watched.includes("labels")));
}

function showNews() {
  const pill = document.getElementById("news");
  if (!pill) return;
  pill.hidden = fresh.size === 0;
  pill.querySelector("span").textContent = fresh.size === 1 ? "1 change" : `${fresh.size} changes`;
}

function forgetNews() {
  fresh.clear();
  showNews();
}

function takeIn() {
  forgetNews();
  window.htmx.ajax("GET", location.pathname + location.search, { target: "#list", select: "#list", swap: "morph:outerHTML" });
}

async function fetchRows() {
  const table = document.querySelector("table[data-rows]");
  const ids = [...dirty].slice(0, ROWS_AT_ONCE);
  ids.forEach((id) => dirty.delete(id));
  if (!table || !ids.length) return;
  const query = new URLSearchParams(ids.map((id) => ["id", id]));
  const page = await get(`${table.dataset.rows}?${query}`, (text) => `<table><tbody>${text}</tbody></table>`);
  for (const id of page ? ids : []) {
    const [now, then] = [document.getElementById(`row-${id}`), page.getElementById(`row-${id}`)];
    if (now && then) morph(now, then, true);
    else if (now) now.classList.add("gone");
  }
}

// --- regions

function wantRegions() {
  regionsWanted = true;
  schedule();
}

function schedule() {
  if (timer) return;
  const wait = Math.max(QUIET_MS, lastFetch + PAUSE_MS - Date.now());
  timer = setTimeout(refresh, wait);
}

async function refresh() {
  lastFetch = Date.now();
  const regions = regionsWanted;
  regionsWanted = false;
  await Promise.all([fetchRows(), regions && fetchRegions()]);
  timer = 0;
  if (dirty.size || regionsWanted) schedule();
}

async function fetchRegions() {
  const page = await get(location.pathname + location.search);
  for (const region of page ? document.querySelectorAll("[data-live]") : []) {
    const then = page.getElementById(region.id);
    if (then) morph(region, then, false);
  }
}

async function get(url, wrap = (text) => text) {
  const answer = await fetch(url, { headers: { "HX-Request": "true", Accept: "text/html" } }).catch(() => null);
  if (!answer?.ok || answer.redirected) return null;
  return new DOMParser().parseFromString(wrap(await answer.text()), "text/html");
}

// Keeps what the reader has opened or is typing.
function morph(now, then, flash) {
  let changed = false;
  const callbacks = {
    beforeNodeMorphed: (old, next) => !(old instanceof Element && (old.matches("[data-keep]") || (old.matches("form") && old.contains(document.activeElement))))
      && noteChange(old, next),
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.matches("details, dialog")) && !(node.matches("relative-time") && name === "title"),
  };
  const noteChange = (old, next) => {
    if (old.nodeType === Node.TEXT_NODE && old.nodeValue !== next.nodeValue && !old.parentElement?.closest("relative-time")) changed = true;
    return true;
  };
  window.Idiomorph.morph(now, then, { morphStyle: "outerHTML", ignoreActiveValue: true, callbacks });
  const after = document.getElementById(then.id);
  if (!after) return;
  window.htmx.process(after);
  if (flash && changed) {
    after.classList.remove("fresh");
    requestAnimationFrame(() => after.classList.add("fresh"));
  }
}
