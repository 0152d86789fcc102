// <copy-button><button data-text="…">: copies, and says that it did.

class CopyButton extends HTMLElement {
  connectedCallback() {
    this.addEventListener("click", () => this.copy());
  }

  async copy() {
    const button = this.querySelector("button");
    const label = button.querySelector("span");
    const before = label.textContent;
    label.textContent = (await written(button.dataset.text)) ? "Copied" : "Press Ctrl C";
    setTimeout(() => { label.textContent = before; }, 1600);
  }
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Plain HTTP on another machine, or not allowed: the text is selected instead, for the keyboard.
    return false;
  }
}

customElements.define("copy-button", CopyButton);
document.addEventListener("click", (event) => {
  const box = event.target.closest("copy-button")?.parentElement.querySelector("pre");
  if (box) getSelection().selectAllChildren(box);
});
