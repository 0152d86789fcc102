// What every page runs: times, toasts, the live stream, keys, copy buttons. Modules do nothing on pages that lack their elements.

import "./times.js";
import "./copying.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startPreferences } from "./preferences.js";
import { sayYouAreOut, startForms, typedSomething } from "./forms.js";
import { startCompletion } from "./completion.js";
import { startArrivals } from "./arrivals.js";
import { toast } from "./toasts.js";

startPreferences();
startKeys();
startForms();
startArrivals();
startCompletion();
startLive();

// What htmx fetched was refused: nothing was swapped, so that somebody has to say so.
document.addEventListener("htmx:responseError", ({ detail }) => {
  if (detail.xhr.status === 401) typedSomething() ? sayYouAreOut() : location.reload();
  else toast({ severity: "error", message: problemWords(detail.xhr) });
});
document.addEventListener("htmx:sendError", () => toast({ severity: "error", message: "The server can't be reached. What you see may be old." }));

function problemWords(answer) {
  try {
    return JSON.parse(answer.responseText).detail;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

const said = document.querySelector("[data-said]");
if (said) {
  toast({ severity: "good", message: said.textContent });
  const url = new URL(location.href);
  url.searchParams.delete("said");
  history.replaceState(history.state, "", url);
}
