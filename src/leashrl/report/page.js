// Draws the report's charts as SVG, and answers filters, pointer and keyboard. Everything comes from #data.
(() => {
  "use strict";
  const { charts, styles } = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const hidden = new Set(), shownSeeds = new Set();
  let showBand = true, strong = null;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  function svg(parent, name, attributes = {}, text) {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  function html(parent, name, className, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  // --- Numbers ---------------------------------------------------------------

  function format(v) {
    const a = Math.abs(v);
    if (v === 0) return "0";
    if (a >= 1e6 || a < 1e-3) return v.toExponential(1).replace("e+", "e").replace(".0e", "e").replace("-", "−");
    const digits = a >= 1000 ? 0 : a >= 100 ? 1 : a >= 1 ? 2 : 3;
    return v.toLocaleString("en", { maximumFractionDigits: digits }).replace("-", "−");
  }
  const percent = (v) => `${(100 * v).toFixed(v > 0 && v < 0.1 ? 1 : 0)} %`;
  const tick = (v) => (Math.abs(v) >= 1e4 && Math.abs(v) < 1e6 ? `${format(v / 1e3)}k` : format(v));

  function ticks(low, high, count) {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(Math.abs(v) < step * 1e-6 ? 0 : v);
    return found;
  }

  // Ticks of an asinh axis: zero and powers of ten, thinned where they crowd.
  function symlogTicks(low, high, scale) {
    const found = low <= 0 && high >= 0 ? [0] : [];
    const first = Math.floor(Math.log10(scale)), last = Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high))));
    const stride = Math.max(1, Math.ceil((last - first + 1) / (low < 0 && high > 0 ? 2 : 4)));
    for (let e = last; e >= first; e -= stride) for (const v of [10 ** e, -(10 ** e)]) if (v >= low && v <= high) found.push(v);
    return found;
  }

  // --- One chart -------------------------------------------------------------

  const visible = (chart) => chart.series.filter((s) => s.filled || !hidden.has(s.label));
  const seedsOf = (s) => Object.entries(s.seeds || {}).filter(([name]) => shownSeeds.has(name));
  const classes = (label) => (styles[label] ? `c${styles[label].colour} d${styles[label].dash}` : "ref");

  function path(points, sx, sy, steps) {
    let d = "", last = 0;
    for (const [x, y] of points) {
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      const px = sx(x).toFixed(1), py = sy(y).toFixed(1);
      d += d ? (steps ? `H${px}V${py}` : `L${px} ${py}`) : `M${px} ${py}`;
      last = px;
    }
    return d;
  }

  function draw(figure) {
    const chart = charts[figure.dataset.chart], width = figure.querySelector(".plot").clientWidth;
    if (!width) return;
    const series = visible(chart), canvas = figure.querySelector("svg");
    const titled = chart.x && (chart.big || chart.steps);
    const named = chart.big && width > 640 && series.length <= 12;
    const height = chart.short ? 230 : chart.big ? Math.round(Math.min(400, Math.max(260, width * 0.45))) : 190;
    const box = { left: 46, right: named ? 184 : 10, top: 10, bottom: titled ? 38 : 24 };
    canvas.replaceChildren();
    canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
    canvas.setAttribute("height", height);

    const xs = [], bands = [], ys = (chart.levels || []).map((level) => level.y);
    for (const s of series) {
      for (const [x, mid, low, high] of s.points) { xs.push(x); ys.push(mid); bands.push(low, high); }
      for (const [, points] of seedsOf(s)) for (const [, y] of points) ys.push(y);
    }
    if (!xs.length) {
      svg(canvas, "text", { x: width / 2, y: height / 2, class: "note", "text-anchor": "middle" }, "nothing chosen");
      return;
    }
    const fx = chart.xlog ? Math.log10 : (x) => x;
    const fy = chart.symlog ? (y) => Math.asinh(y / chart.symlog) : (y) => y;
    let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
    // A band of few seeds may be many times as high as its line: it widens the view by no more than the lines span.
    const span = y1 - y0 || Math.abs(y1) * 0.1, known = bands.filter(Number.isFinite);
    const reach = chart.big ? [y0 - span, y1 + span] : [-Infinity, Infinity];
    if (known.length && (showBand || series.some((s) => !s.seeds))) {
      [y0, y1] = [Math.min(y0, ...known.map((y) => Math.max(y, reach[0]))), Math.max(y1, ...known.map((y) => Math.min(y, reach[1])))];
    }
    if (chart.percent) y0 = 0;
    if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
    if (y0 === y1) { y0 -= Math.abs(y0) * 0.1 || 0.5; y1 += Math.abs(y1) * 0.1 || 0.5; }
    const pad = chart.percent || chart.symlog ? 0 : (y1 - y0) * 0.06;
    [y0, y1] = [y0 - pad, y1 + pad];
    const sx = (x) => box.left + ((fx(x) - fx(x0)) / (fx(x1) - fx(x0))) * (width - box.left - box.right);
    const sy = (y) => height - box.bottom - ((fy(y) - fy(y0)) / (fy(y1) - fy(y0))) * (height - box.top - box.bottom);

    const yTicks = chart.symlog ? symlogTicks(y0, y1, chart.symlog) : ticks(y0, y1, chart.big ? 5 : 3);
    for (const v of yTicks) {
      svg(canvas, "line", { x1: box.left, x2: width - box.right, y1: sy(v), y2: sy(v), class: v === 0 ? "zero" : "grid" });
      svg(canvas, "text", { x: box.left - 7, y: sy(v) + 3.5, "text-anchor": "end" }, chart.percent ? percent(v) : tick(v));
    }
    const xTicks = chart.xlog ? [0.01, 0.1, 1, 10, 100, 1000].filter((v) => v >= x0 * 0.999 && v <= x1 * 1.001)
      : ticks(x0, x1, Math.max(3, Math.floor((width - box.left - box.right) / 80)));
    for (const v of xTicks) {
      svg(canvas, "text", { x: sx(v), y: height - box.bottom + 16, "text-anchor": sx(v) > width - 24 ? "end" : "middle" }, tick(v));
    }
    if (titled) svg(canvas, "text", { x: (box.left + width - box.right) / 2, y: height - 4, "text-anchor": "middle", class: "axis" }, chart.x);

    const levelEnds = [];
    for (const level of chart.levels || []) {
      svg(canvas, "line", { x1: box.left, x2: width - box.right, y1: sy(level.y), y2: sy(level.y), class: "level" });
      if (named) levelEnds.push({ y: sy(level.y), label: level.label, value: level.y, reference: true });
      else svg(canvas, "text", { x: width - box.right - 4, y: sy(level.y) - 5, "text-anchor": "end", class: "note" }, level.label);
    }
    const ends = [...levelEnds];
    for (const s of series) {
      const dim = strong && strong !== s.label ? " dim" : "";
      const group = svg(canvas, "g", { class: `series ${classes(s.label)}${dim}`, "data-label": s.label });
      const points = s.points.map(([x, mid]) => [x, mid]);
      if (s.filled) {
        svg(group, "path", { class: "filled", d: `M${sx(s.points[0][0]).toFixed(1)} ${sy(0).toFixed(1)}V${sy(s.points[0][1]).toFixed(1)}${path(points, sx, sy, true).replace(/^M[^HVL]*/, "")}V${sy(0).toFixed(1)}Z` });
        continue;
      }
      if ((showBand || !s.seeds) && !chart.steps) {
        const banded = s.points.filter(([, , low, high]) => Number.isFinite(low) && Number.isFinite(high));
        const up = banded.map(([x, , , high]) => [x, Math.min(high, y1)]), down = banded.map(([x, , low]) => [x, Math.max(low, y0)]).reverse();
        if (banded.length > 1) svg(group, "path", { class: "band", d: `${path([...up, ...down], sx, sy)}Z` });
      }
      for (const [name, seed] of seedsOf(s)) svg(svg(group, "path", { class: "seed", d: path(seed, sx, sy) }), "title", {}, `${s.label}, seed ${name}`);
      if (showBand || !s.seeds) {
        svg(group, "path", { class: "line", d: path(points, sx, sy, chart.steps) });
        if (chart.big && points.length <= 30) for (const [x, y] of points) svg(group, "circle", { cx: sx(x).toFixed(1), cy: sy(y).toFixed(1), r: 2.6 });
      }
      const y = points[points.length - 1][1];
      ends.push({ y: sy(y), label: s.label, value: y });
    }
    if (named) nameEnds(canvas, chart, ends, width - box.right + 8, box.top, height - box.bottom);
    figure.scales = { box, sx, width, height, series, chart };
  }

  // Names at the ends of the lines, pushed apart where they would overlap.
  function nameEnds(canvas, chart, ends, left, top, bottom) {
    ends.sort((a, b) => a.y - b.y);
    const gap = Math.min(15, (bottom - top) / ends.length);
    ends.forEach((end, i) => { end.at = Math.max(end.y, i ? ends[i - 1].at + gap : top + 4); });
    for (let i = ends.length - 1, limit = bottom; i >= 0; i--, limit -= gap) ends[i].at = Math.min(ends[i].at, limit);
    for (const end of ends) {
      const group = svg(canvas, "g", { class: end.reference ? "ref" : `series ${classes(end.label)}${strong && strong !== end.label ? " dim" : ""}` });
      svg(group, "line", { class: end.reference ? "level" : "line", x1: left, x2: left + 13, y1: end.at, y2: end.at });
      const short = end.label.length > 19 ? `${end.label.slice(0, 18)}…` : end.label;
      const text = svg(group, "text", { x: left + 19, y: end.at + 4, class: "name" }, `${short} `);
      if (!chart.percent) svg(text, "tspan", { class: "value" }, format(Number(end.value.toPrecision(3))));
      if (short !== end.label) svg(text, "title", {}, end.label);
    }
  }

  // --- Values under the pointer, or under the arrow keys ---------------------

  function show(figure, x) {
    const { box, sx, width, height, series, chart } = figure.scales;
    const canvas = figure.querySelector("svg"), tip = figure.querySelector(".tip");
    all(".cursor", canvas).forEach((node) => node.remove());
    figure.at = x;
    svg(canvas, "line", { class: "cursor", x1: sx(x), x2: sx(x), y1: box.top, y2: height - box.bottom });
    const reach = (width - box.left - box.right) * 0.03;
    const rows = [];
    for (const s of series) {
      const before = chart.steps ? s.points.filter((p) => p[0] <= x).pop() : undefined;
      const near = before || s.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      if (Math.abs(sx(near[0]) - sx(x)) <= reach || chart.steps) rows.push([s.label, near, seedsOf(s)]);
    }
    rows.sort((a, b) => b[1][1] - a[1][1]);
    tip.replaceChildren();
    const value = chart.percent ? percent : format;
    html(tip, "b", "", chart.steps ? `${chart.short ? "above" : "from"} ${format(x)}` : `step ${x.toLocaleString("en", { maximumFractionDigits: 2 })}`);
    for (const [label, [, mid, low, high], seeds] of rows.slice(0, 14)) {
      const row = html(tip, "div", classes(label));
      html(row, "i");
      html(row, "span", "", label);
      html(row, "em", "", value(mid));
      html(row, "small", "", low === high || !Number.isFinite(low) ? "" : `${value(low)} to ${value(high)}`);
      for (const [name, points] of seeds) {
        const own = points.find((p) => p[0] === x);
        if (own) html(row, "small", "own", `seed ${name}: ${value(own[1])}`);
      }
    }
    tip.hidden = !rows.length;
    const left = sx(x) + 14, wide = tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(left + wide > width ? sx(x) - wide - 14 : left, width - wide))}px`;
  }

  function clear(figure) {
    all(".cursor", figure).forEach((node) => node.remove());
    figure.querySelector(".tip").hidden = true;
    figure.at = undefined;
  }

  function steps(figure) {
    return [...new Set(figure.scales.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  }

  function arm(figure) {
    const plot = figure.querySelector(".plot");
    plot.addEventListener("pointermove", (event) => {
      if (!figure.scales || !figure.scales.series.length) return;
      const at = event.clientX - plot.getBoundingClientRect().left, { sx } = figure.scales;
      const found = steps(figure);
      if (found.length) show(figure, found.reduce((a, b) => (Math.abs(sx(b) - at) < Math.abs(sx(a) - at) ? b : a)));
    });
    plot.addEventListener("pointerleave", () => clear(figure));
    plot.addEventListener("blur", () => clear(figure));
    plot.addEventListener("keydown", (event) => {
      const found = figure.scales ? steps(figure) : [];
      if (event.key === "Escape") return clear(figure);
      if (!found.length || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      event.preventDefault();
      const now = found.indexOf(figure.at), last = found.length - 1;
      const next = { Home: 0, End: last, ArrowLeft: now < 0 ? last : now - 1, ArrowRight: now + 1 }[event.key];
      show(figure, found[Math.max(0, Math.min(last, next))]);
    });
    new ResizeObserver(() => { clear(figure); draw(figure); }).observe(plot);
  }

  // --- Filters ---------------------------------------------------------------

  const figures = all("figure[data-chart]");
  const redraw = () => figures.forEach((figure) => { if (figure.scales || figure.offsetParent) { clear(figure); draw(figure); } });

  function filter() {
    hidden.clear();
    for (const input of all("input[data-label]")) if (!input.checked) hidden.add(input.dataset.label);
    for (const row of all("tr[data-label]")) row.hidden = hidden.has(row.dataset.label);
    for (const key of all("[data-key]")) key.classList.toggle("off", hidden.has(key.dataset.key));
    const place = (document.querySelector("#place") || {}).value || "";
    for (const node of all("[data-place]")) node.hidden = Boolean(place) && node.dataset.place !== place;
    shownSeeds.clear();
    for (const input of all("input[data-seed]")) if (input.checked) JSON.parse(input.dataset.seed).forEach((name) => shownSeeds.add(name));
    const band = document.querySelector("#band");
    showBand = !band || band.checked;
    redraw();
  }

  for (const input of all("#filters input, #filters select")) input.addEventListener("change", filter);
  for (const button of all("#filters button[data-all]")) {
    button.addEventListener("click", () => {
      for (const input of all("input[data-label]")) input.checked = button.dataset.all === "yes";
      filter();
    });
  }
  for (const chip of all("#filters label[data-name]")) {
    const emphasise = (label) => () => { strong = label; redraw(); };
    chip.addEventListener("pointerenter", emphasise(chip.dataset.name));
    chip.addEventListener("pointerleave", emphasise(null));
  }

  // --- Light, dark, print ----------------------------------------------------

  const root = document.documentElement, theme = document.querySelector("#theme");
  const remember = (value) => { try { localStorage.setItem("leashrl-theme", value); } catch { /* a file may have no storage */ } };
  try { root.dataset.theme = localStorage.getItem("leashrl-theme") || ""; } catch { root.dataset.theme = ""; }
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  matchMedia("print").addEventListener("change", (event) => { if (event.matches) open(); });
  window.addEventListener("beforeprint", open);
  function open() { for (const node of all("details")) node.open = true; redraw(); }

  label();
  figures.forEach(arm);
  filter();
})();
