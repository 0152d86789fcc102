// Forms: nothing typed is lost by leaving the page unasked, and the first wrong input has the focus.

export function startForms() {
  document.querySelector("[aria-invalid]")?.focus();
  for (const form of document.querySelectorAll("form[data-guard]")) guard(form);
}

function guard(form) {
  let touched = false;
  form.addEventListener("input", () => { touched = true; });
  form.addEventListener("submit", () => { touched = false; });
  addEventListener("beforeunload", (event) => touched && event.preventDefault());
}
