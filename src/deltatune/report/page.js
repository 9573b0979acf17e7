// Sorting, filtering and tooltips. The page can be read without: every number stands in the HTML.
(() => {
  "use strict";
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const value = (row, column) => row.cells[column]?.dataset.v ?? "";
  const compare = (a, b) => a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b, undefined, { numeric: true });

  // Tooltips: titles, shown at once, in the page's own colours, and by keyboard as well.
  const tip = document.body.appendChild(document.createElement("div"));
  Object.assign(tip, { className: "tip", hidden: true });
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const { offsetWidth: w, offsetHeight: h } = tip;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - w - 4))}px`;
    tip.style.top = `${y + 18 + h > innerHeight ? Math.max(4, y - h - 10) : y + 18}px`;
  };
  const hide = () => { tip.hidden = true; };
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // What a part of the page needs; a page that changes sends `renewed` to each new part.
  const ready = (root) => {
    // A button in each heading sorts its column: first best, then worst. Rows without a value stay last.
    for (const table of all("table.sortable", root)) {
      const heads = all("thead th", table);
      heads.forEach((head, column) => {
        const button = Object.assign(document.createElement("button"), { type: "button" });
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const now = head.getAttribute("aria-sort");
          const order = now ? (now === "ascending" ? "descending" : "ascending") : head.dataset.first || "ascending";
          heads.forEach((other) => other.removeAttribute("aria-sort"));
          head.setAttribute("aria-sort", order);
          const sign = order === "ascending" ? 1 : -1;
          const rows = [...table.tBodies[0].rows].sort((a, b) => {
            const [x, y] = [value(a, column), value(b, column)];
            return x === "" || y === "" ? (x === "") - (y === "") : sign * compare(x, y);
          });
          table.tBodies[0].append(...rows);
        });
      });
    }
    // The filter hides methods in the whole page. A comma means or, a space means and.
    const box = root.querySelector("#filter");
    if (box) {
      const rows = all("tr[data-find]", root);
      box.closest(".tools").hidden = false;
      box.addEventListener("input", () => {
        const wishes = box.value.toLowerCase().split(",").map((wish) => wish.split(/\s+/).filter(Boolean));
        const asked = wishes.filter((words) => words.length);
        const hit = (row) => asked.some((words) => words.every((word) => row.dataset.find.toLowerCase().includes(word)));
        const shown = rows.filter((row) => !asked.length || hit(row));
        const marks = new Set(shown.map((row) => row.dataset.m));
        all("[data-m]").forEach((node) => node.classList.toggle("off", !marks.has(node.dataset.m)));
        document.getElementById("count").textContent = `${shown.length} of ${rows.length} shown`;
      });
    }
    for (const node of all("main title, main [title]", root)) {
      const host = node.localName === "title" ? node.parentNode : node;
      const text = node.localName === "title" ? node.textContent : node.title;
      host === node ? node.removeAttribute("title") : node.remove();
      if (host.classList.contains("line")) continue;
      host.setAttribute(host === node ? "aria-description" : "aria-label", text);
      if (host !== node) { host.setAttribute("role", "img"); host.tabIndex = 0; } // cells would be too many stops
      const point = (event) => show(text, event.clientX, event.clientY);
      ["pointermove", "pointerdown"].forEach((kind) => host.addEventListener(kind, point));
      host.addEventListener("focus", () => { const r = host.getBoundingClientRect(); show(text, r.right, r.top); });
      ["pointerleave", "blur"].forEach((kind) => host.addEventListener(kind, hide));
    }
    // In a chart of curves, all of them at the step nearest to the pointer.
    for (const chart of all("svg.lines", root)) {
      const lines = all(".line", chart).map((node) => ({ node, points: JSON.parse(node.dataset.points) }));
      const cross = chart.querySelector(".cross");
      const leave = () => { hide(); cross.setAttribute("x1", -9); cross.setAttribute("x2", -9); };
      chart.addEventListener("pointerleave", leave);
      const point = (event) => {
        const x = new DOMPoint(event.clientX, 0).matrixTransform(chart.getScreenCTM().inverse()).x;
        const near = (points) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
        const seen = lines.filter(({ node }) => !node.classList.contains("off"));
        if (!seen.length) return leave();
        const at = near(seen.flatMap(({ points }) => [near(points)]));
        ["x1", "x2"].forEach((end) => cross.setAttribute(end, at[0]));
        const here = seen.filter(({ points }) => Math.abs(near(points)[0] - at[0]) < 8);
        const rows = here.map(({ node, points }) => `${node.dataset.name}: ${near(points)[2]}`);
        show([at[1], ...rows].join("\n"), event.clientX, event.clientY);
      };
      ["pointermove", "pointerdown"].forEach((kind) => chart.addEventListener(kind, point));
    }
    // Pointing at a method in the legend or the table brings out its marks in the charts.
    for (const host of all(".legend li, .board tr[data-m]", root)) {
      const dim = (on) => all(".chart [data-m]").forEach(
        (node) => node.classList.toggle("dim", on && node.dataset.m !== host.dataset.m));
      host.addEventListener("pointerenter", () => dim(true));
      host.addEventListener("pointerleave", () => dim(false));
    }
  };
  ready(document);
  addEventListener("renewed", (event) => ready(event.target));
})();
