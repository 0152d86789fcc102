// Theme and row height: kept in cookies, so that the server sends the page as it will look and nothing flickers.

const CHOICES = { theme: ["system", "light", "dark"], density: ["compact", "roomy"] };

export function cycle(name) {
  const choices = CHOICES[name];
  const root = document.documentElement;
  const next = choices[(choices.indexOf(root.dataset[name]) + 1) % choices.length];
  root.dataset[name] = next;
  document.cookie = `${name}=${next}; path=/; max-age=31536000; samesite=lax`;
  const button = document.querySelector(`[data-cycle="${name}"]`);
  if (button && name === "theme") button.title = `Theme: ${next}`;
}

export function startPreferences() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-cycle]");
    if (button) cycle(button.dataset.cycle);
  });
}
