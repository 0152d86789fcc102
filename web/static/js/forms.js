// Forms: nothing typed is lost, neither by leaving the page unasked nor by sending it to a server that would not take it: who signed out
// meanwhile, or whose server is away, is told so and keeps the form. The first wrong input has the focus.

import { toast } from "./toasts.js";

const touched = new Set();
const checked = new WeakSet();

export function startForms() {
  document.querySelector("[aria-invalid]")?.focus();
  for (const form of document.querySelectorAll("form[data-guard]")) guard(form);
  document.addEventListener("input", (event) => kept(event.target.form) && touched.add(event.target.form));
  document.addEventListener("submit", onSubmit);
}

// Whether somebody is in the middle of typing something that a reload would lose.
export const typedSomething = () => [...touched].some((form) => form.isConnected);

export const sayYouAreOut = () => toast({ severity: "error", message: "You are signed out. Sign in in another tab and come back: what you typed stays here.", link: "/login", fresh: true });

const kept = (form) => form?.method === "post" && !/^\/log(in|out)$/.test(new URL(form.action).pathname);

function guard(form) {
  addEventListener("beforeunload", (event) => touched.has(form) && event.preventDefault());
}

function onSubmit(event) {
  const { target: form, submitter } = event;
  if (!kept(form) || event.defaultPrevented) return;
  if (checked.delete(form)) {
    touched.delete(form);
    return;
  }
  event.preventDefault();
  ready(form).then((may) => {
    if (!may) return;
    checked.add(form);
    form.requestSubmit(submitter);
  });
}

// A session begun anew in another tab has another token.
async function ready(form) {
  const answer = await fetch("/api/v1/whoami").catch(() => null);
  if (answer?.ok) {
    const token = form.querySelector("input[name=csrf_token]");
    const known = await answer.json();
    if (token && known.csrf_token) token.value = known.csrf_token;
    return true;
  }
  if (answer?.status === 401) sayYouAreOut();
  else toast({ severity: "error", message: `${answer ? "The database is away" : "The server can't be reached"}. Nothing was sent, and what you typed stays here.` });
  return false;
}
