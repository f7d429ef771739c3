"use strict";
(() => {
  const root = document.documentElement;

  // Theme: what the system says, or light, or dark.
  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  let theme = "system";
  try { theme = localStorage.getItem("overnight-speech-theme") || "system"; } catch { /* a page from disk may have none */ }
  const setTheme = (name) => {
    theme = themes.includes(name) ? name : "system";
    if (theme === "system") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    button.textContent = `◐ ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme}; change it`);
  };
  setTheme(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    setTheme(themes[(themes.indexOf(theme) + 1) % themes.length]);
    try { localStorage.setItem("overnight-speech-theme", theme); } catch { /* likewise */ }
  });

  // Words that would overlap go to further lines.
  const LINE = 27, GAP = 3;
  const layOut = (track) => {
    const ends = [];
    const width = track.clientWidth;
    if (!width) return;
    const words = [...track.children];
    for (const word of words) word.style.marginLeft = "0";
    const boxes = words.map((word) => [word.offsetLeft, word.offsetWidth]);
    words.forEach((word, index) => {
      let [left, size] = boxes[index];
      const moved = Math.min(0, width - left - size) + Math.max(0, -left);
      if (moved) { word.style.marginLeft = `${moved}px`; left += moved; }
      let line = ends.findIndex((end) => end + GAP <= left);
      if (line < 0) line = ends.push(0) - 1;
      ends[line] = left + size;
      word.style.top = `${line * LINE + 4}px`;
    });
    track.style.height = `${Math.max(1, ends.length) * LINE + 6}px`;
  };
  const observer = new ResizeObserver((entries) => entries.forEach((entry) => layOut(entry.target)));

  const players = [];
  for (const utterance of document.querySelectorAll(".utterance")) {
    const stage = utterance.querySelector(".stage");
    const scroll = utterance.querySelector(".scroll");
    const audio = utterance.querySelector("audio");
    const wave = utterance.querySelector(".wave");
    const now = utterance.querySelector(".now");
    const start = Number(stage.dataset.start), end = Number(stage.dataset.end);
    // A track for the words of each transcript.
    const tracks = [...utterance.querySelectorAll(".words")].map((track) => {
      observer.observe(track);
      const words = [...track.children];
      return { words, times: words.map((word) => [Number(word.dataset.start), Number(word.dataset.end)]), current: -1 };
    });
    let time = start;
    if (audio) players.push(audio);

    const show = () => {
      stage.style.setProperty("--at", String((time - start) / Math.max(end - start, 1e-6)));
      if (wave) {
        wave.setAttribute("aria-valuenow", time.toFixed(2));
        wave.setAttribute("aria-valuetext", `${time.toFixed(2)} seconds`);
      }
      let changed = false;
      for (const track of tracks) {
        const { words, times, current } = track;
        const found = times.findIndex(([first, last]) => time >= first && time < last);
        if (found === current) continue;
        if (current >= 0) { words[current].classList.remove("now"); words[current].removeAttribute("aria-current"); }
        track.current = found;
        if (found < 0) continue;
        words[found].classList.add("now");
        words[found].setAttribute("aria-current", "true");
        changed = true;
      }
      if (changed) now.textContent = tracks.filter(({ current }) => current >= 0).map(({ words, times, current }) => (
        `${words[current].textContent}  ${times[current][0].toFixed(2)} to ${times[current][1].toFixed(2)} s, probability ${words[current].dataset.probability}`
      )).join("\n");
    };
    const follow = () => {
      const side = stage.querySelector(".side").offsetWidth;
      const room = scroll.clientWidth - side;
      if (stage.offsetWidth <= scroll.clientWidth + 1) return;
      const x = (time - start) / (end - start) * (stage.offsetWidth - side);
      if (x < scroll.scrollLeft || x > scroll.scrollLeft + room * 0.9) scroll.scrollLeft = Math.max(0, x - room * 0.1);
    };
    const seek = (seconds) => {
      time = Math.min(Math.max(seconds, start), end);
      if (audio) audio.currentTime = time - start;
      show();
    };

    if (audio) {
      const step = () => {
        time = start + audio.currentTime;
        show();
        if (!audio.paused) { follow(); requestAnimationFrame(step); }
      };
      audio.addEventListener("play", () => {
        for (const other of players) if (other !== audio) other.pause();
        step();
      });
      for (const event of ["seeked", "timeupdate", "pause"]) audio.addEventListener(event, step);
    }
    for (const { words, times } of tracks) words.forEach((word, index) => {
      word.addEventListener("click", () => {
        seek(times[index][0] + 0.001);
        for (const other of words) other.tabIndex = other === word ? 0 : -1;
      });
      word.addEventListener("keydown", (event) => {
        const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: words.length - 1 }[event.key];
        if (to === undefined || !words[to]) return;
        event.preventDefault();
        words[to].focus();
        words[to].click();
      });
    });
    const toPointer = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      seek(start + (event.clientX - box.left) / box.width * (end - start));
    };
    for (const picture of utterance.querySelectorAll(".track:not(.words)")) picture.addEventListener("click", toPointer);
    if (wave) wave.addEventListener("keydown", (event) => {
      const to = { ArrowRight: time + 0.25, ArrowUp: time + 0.25, ArrowLeft: time - 0.25, ArrowDown: time - 0.25, Home: start, End: end }[event.key];
      if (to !== undefined) { event.preventDefault(); seek(to); follow(); }
      if ((event.key === " " || event.key === "Enter") && audio) {
        event.preventDefault();
        if (audio.paused) audio.play(); else audio.pause();
      }
    });
    show();
  }

  // Paper has no buttons to open what is closed.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
    for (const track of document.querySelectorAll(".words")) layOut(track);
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });

  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
