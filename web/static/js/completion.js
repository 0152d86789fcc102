// Completion in a filter box: <input list="…" data-fields='{"presence": ["online", …], …}'>. The browser shows the list; here it is filled
// with what the last word could become: a field, a value of the field before it, or a word that joins conditions.

const MOST = 12;
const JOINING = ["AND", "OR", "NOT"];

export function startCompletion() {
  for (const input of document.querySelectorAll("input[list][data-fields]")) {
    const fields = JSON.parse(input.dataset.fields);
    input.addEventListener("input", () => fill(input, completions(input.value, fields)));
  }
}

// Whole texts, since that is what the browser puts into the box.
export function completions(text, fields) {
  const [, before, word] = /^(.*?)([\w.]*)$/s.exec(text);
  if ((before.match(/"/g) ?? []).length % 2) return [];
  const compared = /([\w.]+)\s*(?:!=|=)\s*$/.exec(before);
  const choices = compared ? fields[compared[1]] ?? [] : [...Object.keys(fields), ...(before.trim() ? JOINING : [])];
  if (!word && !compared) return [];
  return choices.filter((each) => each !== word && each.toLowerCase().startsWith(word.toLowerCase())).slice(0, MOST).map((each) => before + each);
}

function fill(input, texts) {
  input.list.replaceChildren(...texts.map((text) => new Option("", text)));
}
