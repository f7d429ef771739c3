// What an opened row of the table shows. Texts of strangers become text nodes, never markup.
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const isolated = (text) => element("bdi", {}, text);

const copyButton = (name, text) => {
  const button = element("button", { type: "button" }, name);
  button.addEventListener("click", () => copyText(text, button));
  return button;
};

const copyText = async (text, button) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a browser may allow a page from disk only the old way
    const area = element("textarea", { class: "unseen" });
    area.value = text;
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.dataset.name || button.textContent;
  button.dataset.name = before;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; delete button.dataset.name; }, 1200);
};

const rowDetails = (data, row, offsets) => {
  const reference = data.reference[row], text = data.text[row];
  const parts = [];
  const own = data.own.filter(({ codes }) => codes[row] >= 0);
  if (own.length) parts.push(element("p", { class: "own" }, ...own.map(({ name, values, codes }) => (
    element("span", {}, isolated(name), " ", element("b", {}, isolated(values[codes[row]])))
  ))));

  // The difference: a letter for each pair of words, which are those of the texts or come with the letters.
  const difference = () => {
    const packed = data.pairs[row];
    const [letters, ours, theirs] = typeof packed === "string" ? [packed, null, null] : packed;
    const left = ours ? null : reference.split(" "), right = theirs ? null : text.split(" ");
    const pairs = [...letters].map((letter, index) => [
      letter,
      ours ? ours[index] : letter === "i" ? "" : left.shift(),
      theirs ? theirs[index] : letter === "d" ? "" : right.shift(),
    ]);
    const none = () => element("span", { "aria-hidden": "true" }, "∅");
    const drawn = pairs.map(([letter, one, other]) => ({
      "=": () => element("span", { class: "pair" }, element("span", {}, isolated(one)), element("span", {}, isolated(other))),
      s: () => element("span", { class: "pair sub", title: "substitution" }, element("span", {}, isolated(one)), element("mark", {}, isolated(other))),
      d: () => element("span", { class: "pair del", title: "deletion: not in the text" }, element("del", {}, isolated(one)), none()),
      i: () => element("span", { class: "pair ins", title: "insertion: not in the reference" }, none(), element("ins", {}, isolated(other))),
    })[letter]());
    const head = element("span", { class: "pair head", "aria-hidden": "true" }, element("span", {}, "reference"), element("span", {}, "text"));
    return element("div", { class: "pairs" }, head, ...drawn);
  };
  const said = (name, value) => element("p", { class: "said" }, element("span", { class: "name" }, name), " ", value ? isolated(value) : element("i", {}, "empty"));
  if (data.pairs[row] !== undefined) parts.push(difference());
  else {
    if (reference !== null) parts.push(said("reference", reference));
    if (text !== null) parts.push(said("text", text));
  }

  const count = data.words.counts[row];
  if (count) {
    const names = data.words.spelled[row] || text.split(" ");
    let end = 0;
    const words = names.slice(0, count).map((name, index) => {
      const at = offsets[row] + index;
      const start = end + data.words.starts[at];
      end = start + data.words.lengths[at];
      const probability = data.words.probabilities[at];
      return element("li", { class: "word", style: `--doubt:${Math.sqrt(1 - probability / 100).toFixed(2)}` },
        isolated(name), element("small", {}, ` ${(start / 100).toFixed(2)} to ${(end / 100).toFixed(2)} s, ${probability} %`));
    });
    parts.push(element("ul", { class: "timed", "aria-label": "words with their times and probabilities" }, ...words));
  }

  const tools = element("p", { class: "tools" });
  const example = data.examples[row];
  const uri = data.links[row] ?? `file://${data.path[row].split("/").map(encodeURIComponent).join("/")}`;
  if (example) tools.append(element("a", { href: `#${example}` }, "Play it, with its pictures"));
  if (uri) tools.append(element("a", { href: uri, target: "_blank", rel: "noreferrer", title: "opens where the recording is on this computer" }, "Open the recording"));
  tools.append(copyButton("Copy id", data.id[row]), copyButton("Copy path", data.path[row]));
  if (text) tools.append(copyButton("Copy text", text));
  parts.push(tools, element("p", { class: "path" }, isolated(data.path[row])));
  return parts;
};
