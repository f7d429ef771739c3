// The table of utterances: unpacked, filtered and sorted here. Only the rows in sight are elements of the page.
(() => {
  const explorer = document.getElementById("explorer");
  if (!explorer) return;
  const status = explorer.querySelector("[role=status]");
  const viewport = explorer.querySelector(".viewport");
  const head = explorer.querySelector("thead tr"), body = explorer.querySelector("tbody");
  const filters = explorer.querySelector(".filters");
  const field = (name) => filters.querySelector(`[name=${name}]`);
  const AROUND = 12, PRINTED = 100, MAX_CHOICES = 50, MAX_SELECTS = 6;

  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const digits = (value, count) => value === null ? "" : value.toFixed(count);
  const columnsOf = (data) => [
    { key: "id", name: "utterance", show: (row) => data.id[row] },
    { key: "text", name: "text", show: (row) => data.text[row] ?? "" },
    { key: "wer", name: "WER, %", number: true, show: (row) => data.wer[row] === null ? "" : (100 * data.wer[row]).toFixed(0) },
    { key: "word_errors", name: "errors", number: true, show: (row) => data.wer[row] === null ? "" : `${data.word_errors[row]} of ${data.reference_words[row]}` },
    { key: "avg_logprob", name: "log-prob", number: true, show: (row) => digits(data.avg_logprob[row], 3) },
    { key: "duration_s", name: "seconds", number: true, show: (row) => digits(data.duration_s[row], 1) },
  ].filter(({ key }) => data[key].some((value) => value !== null));

  const start = (data) => {
    const total = data.id.length;
    const columns = columnsOf(data);
    const has = (key) => columns.some((column) => column.key === key);
    const offsets = [0];
    for (const count of data.words.counts) offsets.push(offsets[offsets.length - 1] + count);
    let order = [], sorting = has("wer") ? ["wer", -1] : has("avg_logprob") ? ["avg_logprob", 1] : ["id", 1];
    let open = -1, current = 0, rowHeight = 36, panelHeight = 0, printing = false;

    // Filtering and sorting.
    const haystacks = [];
    const haystack = (row) => haystacks[row] ??= [
      data.id[row], data.text[row], data.reference[row], data.path[row],
      ...data.own.map(({ values, codes }) => values[codes[row]]),
    ].join("\n").toLowerCase();
    const selects = data.own.filter(({ values }) => values.length > 1 && values.length <= MAX_CHOICES).slice(0, MAX_SELECTS).map((column) => {
      const select = element("select", {}, element("option", { value: "" }, "all"));
      const byName = column.values.map((value, code) => [value, code]).sort((one, other) => collator.compare(one[0], other[0]));
      for (const [value, code] of byName) select.append(element("option", { value: code }, value));
      field("reset").before(element("label", {}, isolated(column.name), " ", select));
      return { select, codes: column.codes };
    });
    const matching = () => {
      const wanted = field("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const worst = field("wer").value === "" ? null : Number(field("wer").value) / 100;
      const certain = field("avg_logprob").value === "" ? null : Number(field("avg_logprob").value);
      const chosen = selects.filter(({ select }) => select.value !== "").map(({ select, codes }) => [codes, Number(select.value)]);
      const found = [];
      for (let row = 0; row < total; row++) {
        if (worst !== null && !(data.wer[row] !== null && data.wer[row] >= worst)) continue;
        if (certain !== null && !(data.avg_logprob[row] !== null && data.avg_logprob[row] <= certain)) continue;
        if (!chosen.every(([codes, code]) => codes[row] === code)) continue;
        if (wanted.length && !wanted.every((word) => haystack(row).includes(word))) continue;
        found.push(row);
      }
      return found;
    };
    const compare = (key, direction) => {
      const values = data[key];
      return (one, other) => {
        const a = values[one], b = values[other];
        if (a === null || b === null) return (a === null) - (b === null) || one - other; // without a value: last
        const apart = typeof a === "string" ? collator.compare(a, b) : a - b;
        if (apart) return direction * apart;
        // Of equals, the least certain come first.
        return (data.avg_logprob[one] ?? 0) - (data.avg_logprob[other] ?? 0) || one - other;
      };
    };
    const say = () => {
      const [some, all] = [order.length, total].map((count) => count.toLocaleString("en"));
      const said = some === all ? `${all} utterances` : `${some} of ${all} utterances`;
      status.textContent = printing && order.length > PRINTED ? `${said}, of which the first ${PRINTED} are printed` : said;
    };
    const refresh = () => {
      order = matching().sort(compare(...sorting));
      open = -1;
      current = 0;
      viewport.scrollTop = 0;
      explorer.querySelector("table").setAttribute("aria-rowcount", order.length + 1);
      for (const cell of head.children) {
        cell.setAttribute("aria-sort", cell.dataset.key === sorting[0] ? (sorting[1] > 0 ? "ascending" : "descending") : "none");
      }
      say();
      render(true);
    };

    // The rows in sight, and some around them. An opened row is followed by a row with its details.
    const panel = element("td");
    const panelRow = element("tr", { class: "panel" }, panel);
    const spacer = () => element("tr", { class: "spacer", "aria-hidden": "true" }, element("td"));
    const above = spacer(), below = spacer();
    const place = () => open < 0 ? -1 : order.indexOf(open);
    const topOf = (at) => at * rowHeight + (place() >= 0 && at > place() ? panelHeight : 0);
    const at = (y) => {
      const opened = place();
      if (opened < 0 || y < (opened + 1) * rowHeight) return Math.floor(y / rowHeight);
      return Math.max(opened, Math.floor((y - panelHeight) / rowHeight));
    };
    const rowOf = (index) => {
      const row = order[index];
      const cells = columns.map(({ key, number, show }) => element(key === "id" ? "th" : "td", { class: `${key}${number ? " n" : ""}`, scope: key === "id" ? "row" : null },
        key === "id" ? element("button", { type: "button", tabindex: "-1", "aria-expanded": String(row === open) }, isolated(show(row)))
          : number ? show(row) : isolated(show(row))));
      const made = element("tr", { class: row === open ? "line opened" : "line", "aria-rowindex": index + 2 }, ...cells);
      made.dataset.at = index;
      return made;
    };
    let drawn = [-1, -1];
    const render = (anew = false) => {
      const top = viewport.scrollTop, height = Math.max(viewport.clientHeight - head.offsetHeight, rowHeight);
      const first = printing ? 0 : Math.max(0, at(top) - AROUND);
      const last = Math.min(order.length, printing ? PRINTED : at(top + height) + AROUND);
      if (!anew && first === drawn[0] && last === drawn[1]) return;
      drawn = [first, last];
      const focused = body.contains(document.activeElement) ? document.activeElement : null;
      const focusedAt = focused?.closest(".line")?.dataset.at;
      const opened = place();
      const rows = [];
      for (let index = first; index < last; index++) {
        rows.push(rowOf(index));
        if (index === opened) rows.push(panelRow);
      }
      above.firstChild.style.height = printing ? "0" : `${topOf(first)}px`;
      below.firstChild.style.height = printing ? "0" : `${topOf(order.length) - topOf(last)}px`;
      const seen = [...head.children].filter((cell) => cell.offsetWidth).length; // a narrow page leaves columns out
      for (const cell of [panel, above.firstChild, below.firstChild]) cell.colSpan = seen;
      body.replaceChildren(above, ...rows, below);
      viewport.scrollTop = top; // the table was short for a moment
      if (rows.length && rows[0].offsetHeight) rowHeight = rows[0].offsetHeight;
      // One row can be reached by Tab: the one that was there last or, when it is out of sight, the first in sight.
      const reachable = current >= first && current < last ? current : at(top);
      buttonAt(reachable)?.setAttribute("tabindex", "0");
      if (focusedAt !== undefined) buttonAt(focusedAt)?.focus({ preventScroll: true });
      else if (focused && body.contains(focused)) focused.focus({ preventScroll: true });
    };
    const buttonAt = (index) => body.querySelector(`.line[data-at="${index}"] button`);
    const go = (index) => {
      current = Math.min(Math.max(index, 0), order.length - 1);
      const top = topOf(current), height = viewport.clientHeight - head.offsetHeight;
      if (top < viewport.scrollTop) viewport.scrollTop = top;
      else if (top + rowHeight > viewport.scrollTop + height) viewport.scrollTop = top + rowHeight - height;
      render(true);
      buttonAt(current)?.focus({ preventScroll: true });
    };
    const toggle = (index) => {
      open = order[index] === open ? -1 : order[index];
      current = index;
      panelHeight = 0;
      if (open >= 0) panel.replaceChildren(element("div", { class: "inner" }, ...rowDetails(data, open, offsets)));
      render(true);
      if (open >= 0) panelHeight = panelRow.offsetHeight;
      go(index);
    };
    new ResizeObserver(() => {
      if (open < 0 || !panelRow.isConnected || panelRow.offsetHeight === panelHeight) return;
      panelHeight = panelRow.offsetHeight;
      render(true);
    }).observe(panel);

    // The pointer and the keyboard.
    for (const { key, name, number } of columns) {
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => {
        sorting = [key, key === sorting[0] ? -sorting[1] : key === "wer" || key === "word_errors" || key === "duration_s" ? -1 : 1];
        refresh();
      });
      head.append(element("th", { scope: "col", class: `${key}${number ? " n" : ""}`, "data-key": key }, button));
    }
    body.addEventListener("click", (event) => {
      const line = event.target.closest(".line");
      if (line && !String(getSelection())) toggle(Number(line.dataset.at));
    });
    body.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && open >= 0) { event.preventDefault(); toggle(place()); return; }
      const line = event.target.closest(".line");
      if (!line) return;
      const index = Number(line.dataset.at), page = Math.max(1, Math.floor(viewport.clientHeight / rowHeight) - 2);
      const to = { ArrowDown: index + 1, ArrowUp: index - 1, PageDown: index + page, PageUp: index - page, Home: 0, End: order.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      go(to);
    });
    field("search").addEventListener("keydown", (event) => { if (event.key === "ArrowDown" && order.length) { event.preventDefault(); go(0); } });
    addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
      event.preventDefault();
      field("search").focus();
    });
    let waiting = 0;
    filters.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 120); });
    field("reset").addEventListener("click", () => {
      for (const each of filters.querySelectorAll("input, select")) each.value = "";
      refresh();
    });
    field("copy").addEventListener("click", () => copyText(order.map((row) => data.id[row]).join("\n"), field("copy")));
    viewport.addEventListener("scroll", () => render());
    new ResizeObserver(() => render(true)).observe(viewport);
    addEventListener("beforeprint", () => { printing = true; say(); render(true); });
    addEventListener("afterprint", () => { printing = false; say(); render(true); });

    for (const each of filters.querySelectorAll("[data-needs]")) each.hidden = !has(each.dataset.needs);
    for (const each of explorer.querySelectorAll("[hidden]:not(label)")) each.hidden = false;
    refresh();
  };

  const collator = new Intl.Collator("en", { numeric: true });
  const packed = explorer.dataset.rows;
  explorer.removeAttribute("data-rows");
  if (typeof DecompressionStream === "undefined") {
    status.textContent = "This browser cannot unpack the table. Firefox 113, Chrome 80, Safari 16.4 and later ones can.";
    return;
  }
  status.textContent = "The table is being unpacked.";
  unpack(packed).then(start).catch((error) => { status.textContent = `The table cannot be unpacked: ${error.message}`; throw error; });
})();
