// What of hostile texts has become more than text: tests/pages/hostile.py says them, `end` is the last character of each.
(end) => {
  const found = [];
  if (document.documentElement.dataset.owned) found.push("something ran");
  for (const each of document.querySelectorAll("[onerror], [onload], [hx-get='/owned'], img[src=x], a[href^='javascript:' i]")) {
    found.push(`an element: ${each.outerHTML.slice(0, 200)}`);
  }
  for (const each of document.scripts) if (!each.src && each.type !== "application/json") found.push("a script within the page");
  const isolates = ["isolate", "isolate-override", "plaintext"];
  const inline = (element) => getComputedStyle(element).display.startsWith("inline");
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (!text.nodeValue.includes("\u202e") || !text.parentElement.checkVisibility()) continue;
    let at = text.parentElement;
    while (inline(at) && !isolates.includes(getComputedStyle(at).unicodeBidi)) at = at.parentElement;
    const whole = at.textContent;
    // Within a block, or an inline element that isolates: nothing but blanks may stand behind the text.
    if (whole.slice(whole.lastIndexOf(end) + 1).trim()) found.push(`it turns what is behind it: ${whole.slice(0, 300)}`);
  }
  return found;
};
