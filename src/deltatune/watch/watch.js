// Renews what has changed of the page, and leaves the reader where he is. It goes first: it keeps parts as they came.
(() => {
  "use strict";
  const EVERY = 2000;
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const parts = (root) => all("body > header, main > section", root);
  const nameOf = (part) => part.id || part.querySelector("h2")?.textContent || part.getAttribute("aria-label") || part.localName;
  const FOCUSABLE = "a, button, input, summary, [tabindex]";
  let came = new Map(parts(document).map((part) => [nameOf(part), part.outerHTML]));
  let tag = null, wait = EVERY;

  const labelOf = (node) => (node.closest("article, .card")?.querySelector("h3, summary")?.textContent ?? "").replace(/\d+/g, "#");
  const keyed = (nodes) => {
    const counts = {};
    return nodes.map((node) => { const label = labelOf(node); return [`${label}|${(counts[label] = (counts[label] ?? 0) + 1)}`, node]; });
  };
  const details = (part) => keyed(all("details", part));
  const tables = (part) => all("table.sortable", part);
  const heads = (table) => all("thead th", table);

  // What a reader did to a part, to be done to the one that takes its place.
  const memory = (part) => {
    const held = document.activeElement;
    return {
      open: new Map(details(part).map(([key, node]) => [key, node.open])),
      sorted: tables(part).map((table) => { const i = heads(table).findIndex((th) => th.ariaSort); return [i, i < 0 ? null : heads(table)[i].ariaSort]; }),
      scrolled: all(".scroll, pre", part).map((node) => [node.scrollLeft, node.scrollTop]),
      focus: part.contains(held) ? all(FOCUSABLE, part).indexOf(held) : -1,
      typed: part.querySelector("#filter")?.value ?? "",
    };
  };
  const recall = (part, { open, sorted, scrolled, focus, typed }) => {
    for (const [key, node] of details(part)) if (open.has(key)) node.open = open.get(key);
    tables(part).forEach((table, n) => {
      const [column, order] = sorted[n] ?? [-1];
      const head = heads(table)[column];
      for (let clicks = 0; order && head && head.ariaSort !== order && clicks < 2; clicks++) head.querySelector("button").click();
    });
    all(".scroll, pre", part).forEach((node, n) => { if (scrolled[n]) [node.scrollLeft, node.scrollTop] = scrolled[n]; });
    if (typed) part.querySelector("#filter").value = typed;
    if (focus >= 0) all(FOCUSABLE, part)[focus]?.focus({ preventScroll: true });
  };

  const take = (next) => {
    document.title = next.title;
    const anchor = parts(document).find((part) => part.getBoundingClientRect().bottom > 0);
    const [key, top] = anchor ? [nameOf(anchor), anchor.getBoundingClientRect().top] : [];
    const here = new Map(parts(document).map((part) => [nameOf(part), part]));
    const selected = getSelection();
    let last = null;
    const seen = new Map(), fresh = [];
    for (const part of parts(next)) {
      const name = nameOf(part), html = part.outerHTML, old = here.get(name);
      const busy = old && !selected.isCollapsed && old.contains(selected.anchorNode); // a text is being copied
      if (old && (busy || came.get(name) === html)) {
        seen.set(name, busy ? came.get(name) : html);
        last = old;
        continue;
      }
      seen.set(name, html);
      const mine = document.importNode(part, true);
      const known = old ? memory(old) : null;
      if (old) old.replaceWith(mine);
      else if (last?.localName === "section") last.after(mine);
      else document.querySelector("main").prepend(mine);
      last = mine;
      fresh.push([mine, known]);
    }
    for (const [name, part] of here) if (!seen.has(name)) part.remove();
    came = seen;
    for (const [part, known] of fresh) {
      part.dispatchEvent(new Event("renewed", { bubbles: true }));
      if (known) recall(part, known);
    }
    const box = document.getElementById("filter");
    if (fresh.length && box?.value) box.dispatchEvent(new Event("input"));
    const again = key && parts(document).find((part) => nameOf(part) === key);
    if (again && scrollY) scrollBy({ top: again.getBoundingClientRect().top - top, behavior: "instant" });
    const foot = next.querySelector("footer"), told = document.getElementById("told");
    if (told.textContent !== document.getElementById("progress").dataset.said) told.textContent = document.getElementById("progress").dataset.said;
    document.querySelector("footer").firstChild.textContent = foot.firstChild.textContent;
  };

  const ago = () => {
    for (const time of all("time[datetime]")) {
      const s = Math.max(0, Math.round((Date.now() - Date.parse(time.dateTime)) / 1000));
      const text = s < 90 ? `${s} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : "";
      if (text) time.textContent = `${text} ago`;
    }
  };
  const lost = (why) => {
    const note = document.querySelector(".lost");
    note.hidden = !why;
    note.textContent = why;
  };
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch("/", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (answer.status === 200) {
          tag = answer.headers.get("ETag");
          take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        } else if (answer.status !== 304) throw new Error(`status ${answer.status}`);
        wait = EVERY;
        lost("");
      } catch {
        wait = Math.min(2 * wait, 15000);
        lost("This page is no longer renewed: deltatune watch does not answer. It goes on when the command is given again.");
      }
      ago();
    }
    setTimeout(look, wait);
  };
  document.addEventListener("DOMContentLoaded", ago);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ago(); });
  setTimeout(look, EVERY);
})();
