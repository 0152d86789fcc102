// What every page runs: times, toasts, the live stream, keys, copy buttons. Modules do nothing on pages that lack their elements.

import "./times.js";
import "./copying.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startPreferences } from "./preferences.js";
import { startForms } from "./forms.js";
import { startArrivals } from "./arrivals.js";
import { toast } from "./toasts.js";

startPreferences();
startKeys();
startForms();
startArrivals();
startLive();

const said = document.querySelector("[data-said]");
if (said) {
  toast({ severity: "good", message: said.textContent });
  const url = new URL(location.href);
  url.searchParams.delete("said");
  history.replaceState(history.state, "", url);
}
