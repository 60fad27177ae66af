"use strict";
// The page's behaviour. Everything that it shows is in DATA, which sasg/report/html.py made from run folders.
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const X_LABELS = Object.fromEntries([...$("x").options].map((option) => [option.value, option.text]));
const hidden = new Set(); // labels of methods that are switched off

const element = (tag, text, attributes = {}) => {
  const made = document.createElement(tag);
  made.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
};
// What should fall, unlike accuracies.
const FALLING = { loss: "validation loss", objective: "f(w)", objective_error: "f(w) - f*", gradient_norm: "norm of the gradient" };
const isMetric = (name) => name.startsWith("top") || name in FALLING;
const percent = (share, digits = 2) => (share == null ? "" : `${(100 * share).toFixed(digits)} %`);
const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const grouped = (number) => (number == null ? "" : number.toLocaleString("en"));

// A dark page needs lighter lines: each colour is mixed with white there.
function tone(color) {
  if (!dark.matches) return color;
  const parts = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  const amount = parts.reduce((a, b) => a + b) < 240 ? 0.7 : 0.3;
  return `#${parts.map((v) => Math.round(v + (255 - v) * amount).toString(16).padStart(2, "0")).join("")}`;
}

const transparent = (color, opacity) => {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
};

function layout(x, y, more = {}) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, separatethousands: true, minexponent: 5 };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 13, family: "system-ui, sans-serif" },
    margin: { l: 60, r: 12, t: 26, b: 46 },
    showlegend: false,
    hoverlabel: { align: "left" },
    ...more,
    xaxis: { ...axis, title: { text: x }, exponentformat: "power", ...more.xaxis },
    yaxis: { ...axis, title: { text: y }, exponentformat: "power", ...more.yaxis },
  };
}

// A logarithmic axis over these values: powers of ten alone where there are some, else 1, 2 and 5 times them.
function logAxis(values) {
  const logs = values.filter((value) => value > 0).map(Math.log10);
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const ticks = [];
  const span = high - low;
  const steps = span > 2 ? [1] : span > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const every = Math.max(1, Math.ceil(span / 6));
  for (let power = Math.floor(low) - 1; power <= Math.ceil(high); power += 1) {
    if (steps.length > 1 || power % every === 0) steps.forEach((step) => ticks.push(step * 10 ** power));
  }
  const plain = (value) => (value >= 0.001 && value < 1e5 ? Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 5 }) : power10(value));
  return logs.length ? { type: "log", tickvals: ticks, ticktext: ticks.map(plain) } : { type: "log" };
}

const power10 = (value) => {
  const power = Math.floor(Math.log10(value) + 1e-9);
  const digits = Number((value / 10 ** power).toPrecision(2));
  return `${digits === 1 ? "" : `${digits}×`}10<sup>${power}</sup>`;
};

function draw(target, traces, shape) {
  target.classList.remove("gap");
  return Plotly.react(target, traces, shape, { responsive: true, displayModeBar: false });
}

function gap(target, text) {
  Plotly.purge(target);
  target.classList.add("gap");
  target.textContent = text;
}

// --- curves: the mean over the seeds at the iterations that all of them evaluated, and their range as a band

function column(run, name) {
  return name === "seconds" ? run.seconds[$("link").value] : run.columns[name];
}

function overSeeds(series, x, y) {
  const runs = series.runs.map((name) => DATA.runs[name]);
  const rows = new Map();
  runs.forEach((run) => {
    const [xs, ys] = [column(run, x), column(run, y)];
    run.columns.iteration.forEach((k, i) => {
      if (ys && ys[i] != null) rows.set(k, [...(rows.get(k) || []), [xs[i], ys[i]]]);
    });
  });
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  return [...rows]
    .filter(([, found]) => found.length === runs.length)
    .map(([iteration, found]) => {
      const ys = found.map((pair) => pair[1]);
      return { iteration, x: mean(found.map((pair) => pair[0])), y: mean(ys), low: Math.min(...ys), high: Math.max(...ys) };
    });
}

function traces(series, x, y) {
  const points = overSeeds(series, x, y);
  const color = tone(series.color);
  const show = y.startsWith("top") ? percent : (value) => value.toPrecision(4);
  const n = series.runs.length;
  const words = points.map((p) => {
    const range = n > 1 ? `<br>${show(p.low)} – ${show(p.high)} over ${n} seeds` : "<br>1 seed";
    return `<b>${series.label}</b> ${show(p.y)}${range}<br>iteration ${grouped(p.iteration)}`;
  });
  const xs = points.map((p) => p.x);
  const band = {
    x: [...xs, ...xs.slice().reverse()],
    y: [...points.map((p) => p.high), ...points.map((p) => p.low).reverse()],
    fill: "toself",
    fillcolor: transparent(color, 0.18),
    line: { width: 0 },
    mode: "lines",
    hoverinfo: "skip",
  };
  const line = {
    x: xs,
    y: points.map((p) => p.y),
    name: series.label,
    mode: "lines+markers",
    line: { color, dash: series.dash, width: 2 },
    marker: { symbol: series.symbol, size: 8, color, maxdisplayed: 9, line: { width: 1, color: dark.matches ? "#15171a" : "#fff" } },
    customdata: words,
    hovertemplate: `%{customdata}<br>%{x:.4s} ${X_LABELS[x]}<extra></extra>`,
  };
  return n > 1 ? [band, line] : [line];
}

const here = () => DATA.views[Number($("view").value)];

function drawCurves() {
  const view = here();
  const all = view.series;
  const [x, y] = [$("x").value, $("y").value];
  $("link").disabled = x !== "seconds";
  if (!all.some((one) => one.runs.length)) {
    $("plotnote").textContent = "";
    gap($("plot"), `${view.label}: not run (0 of ${counted(view.planned, "run")})`);
    return;
  }
  const shown = all.filter((one) => one.runs.length && !hidden.has(one.label));
  const baselines = y === view.metric ? view.baselines : [];
  const xTitle = x === "seconds" ? `seconds of communication, modelled (link: ${$("link").value})` : X_LABELS[x];
  const yTitle = $("y").selectedOptions[0].text;
  const points = shown.flatMap((one) => overSeeds(one, x, y));
  const ys = points.map((p) => p.y).sort((a, b) => a - b);
  let range;
  const isLog = y === "training_loss" || y in FALLING;
  if (!isLog && ys.length) {
    const low = Math.min(ys[Math.floor(ys.length * 0.08)], ...baselines.map((value) => value - 0.01));
    const high = Math.max(ys[ys.length - 1], ...baselines);
    range = [low - 0.05 * (high - low), Math.min(1.002, high + 0.12 * (high - low))];
  }
  const yaxis = isLog ? logAxis(points.flatMap((p) => [p.low, p.high])) : { tickformat: ".4~%", range };
  const marks = {
    shapes: baselines.map((value) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: "#888", dash: "dot" } })),
    annotations: baselines.map((value) => ({ xref: "paper", x: 1, y: isLog ? Math.log10(value) : value, xanchor: "left", yanchor: "middle", showarrow: false,
      text: isLog ? value : `${+(100 * value).toFixed(4)} %`, font: { size: 11 } })),
    margin: { l: 60, r: baselines.length ? 44 : 12, t: 26, b: 46 },
  };
  const xaxis = $("log").checked ? logAxis(points.map((p) => p.x)) : { type: "linear" };
  const more = { xaxis, yaxis, ...marks };
  draw($("plot"), shown.flatMap((one) => traces(one, x, y)), layout(xTitle, yTitle, more));
  const counts = all.map((one) => `${one.label} ${one.status}`);
  const line = baselines.length ? ` Dotted: the ${isLog ? "target" : "baseline accuracy"}.` : "";
  const timed = x === "seconds" ? " Modelled times: uploads, flags and downloads of int32 indices; no computation." : "";
  $("plotnote").textContent = `Lines are means over seeds, bands their range.${line} Runs: ${counts.join("; ")}.${timed} ${view.made.join("; ")}.`;
}

function chips() {
  $("methods").replaceChildren(
    ...here().series.map((one) => {
      const chip = element("button", "", { type: "button", "aria-pressed": String(!hidden.has(one.label)) });
      const swatch = element("i", "");
      swatch.style.background = tone(one.color);
      chip.append(swatch, one.label);
      chip.disabled = !one.runs.length;
      chip.onclick = () => {
        hidden[hidden.has(one.label) ? "delete" : "add"](one.label);
        refresh();
      };
      return chip;
    }),
  );
}

function quantities() {
  const view = here();
  const first = view.series.flatMap((one) => one.runs)[0];
  const metrics = first ? Object.keys(DATA.runs[first].columns).filter(isMetric) : [view.metric];
  const before = $("y").value;
  const name = (metric) => FALLING[metric] ?? `${metric.replace(/^top(\d)/, "top-$1").replace("_", ", ").replaceAll("_", " ")} test accuracy`;
  $("y").replaceChildren(
    ...metrics.sort((a, b) => (b === view.metric) - (a === view.metric)).map((m) => new Option(name(m), m)),
    new Option("training loss", "training_loss"),
  );
  if (before === "training_loss") $("y").value = before;
}

function refresh() {
  chips();
  drawCurves();
}

// --- tables

const MISSING = ["not run", "not measured", "failed", "unfinished"];

function tableElement(table) {
  const body = element("tbody", "");
  table.rows.forEach((row) => {
    const tr = element("tr", "");
    row.cells.forEach((cell, i) => {
      tr.append(element("td", cell, { class: `${i > 1 ? "n" : ""}${MISSING.includes(cell) ? " missing" : ""}` }));
    });
    if (row.runs.length) opens(tr, () => showRuns(row.runs));
    body.append(tr);
  });
  const head = element("tr", "");
  table.header.forEach((cell, i) => head.append(element("th", cell, { class: i > 1 ? "n" : "" })));
  const made = element("table", "", { class: "wrap" });
  made.append(element("thead", ""), body);
  made.tHead.append(head);
  const scroll = element("div", "", { class: "scroll" });
  scroll.append(made);
  const hint = element("p", "The table is wider than its frame: it scrolls sideways.", { class: "note hint" });
  const list = element("ul", "", { class: "note" });
  list.append(...table.made.map((line) => element("li", line)));
  return [element("p", table.note, { class: "note" }), hint, scroll, list];
}

function tables() {
  DATA.tables.forEach((table) => {
    $("tables").append(element("h3", `${table.part}: ${table.title}`), ...tableElement(table));
    table.sections.forEach((section) => {
      const details = element("details", "");
      details.append(element("summary", section.title), ...tableElement(section));
      details.ontoggle = hints;
      details.querySelectorAll("ul").forEach((list) => list.remove()); // told above
      $("tables").append(details);
    });
  });
}

// Say where a table is wider than its frame.
function hints() {
  document.querySelectorAll(".scroll").forEach((frame) => {
    frame.previousElementSibling.hidden = frame.scrollWidth <= frame.clientWidth;
  });
}

function opens(tr, action) {
  tr.tabIndex = 0;
  tr.onclick = action;
  tr.onkeydown = (event) => {
    if (event.key === "Enter") action();
  };
}

// --- the list of runs, and one run

const FILTERS = ["task", "label", "seed"];

function fillFilters() {
  FILTERS.forEach((key) => {
    const values = [...new Set(Object.values(DATA.runs).map((run) => String(run[key])))];
    if (key === "seed") values.sort((a, b) => a - b);
    $(`filter-${key}`).replaceChildren(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    $(`filter-${key}`).onchange = () => {
      chosen = null;
      listRuns();
    };
  });
  $("filter-text").oninput = listRuns;
}

let chosen = null; // names of runs that a table's row asked for

function showRuns(names) {
  FILTERS.forEach((key) => ($(`filter-${key}`).value = ""));
  $("filter-text").value = "";
  chosen = new Set(names);
  listRuns();
  $("list").scrollIntoView();
}

function listRuns() {
  const text = $("filter-text").value.trim().toLowerCase();
  const all = Object.entries(DATA.runs);
  const kept = all.filter(([name, run]) => {
    const matches = FILTERS.every((key) => !$(`filter-${key}`).value || String(run[key]) === $(`filter-${key}`).value);
    const words = `${name} ${run.device} ${run.summary.device} ${run.commit} ${run.label}`.toLowerCase();
    return (!chosen || chosen.has(name)) && matches && words.includes(text);
  });
  $("count").replaceChildren(`${kept.length} of ${counted(all.length, "run")}`);
  if (chosen) {
    const every = element("button", "show all", { type: "button" });
    every.onclick = () => {
      chosen = null;
      listRuns();
    };
    $("count").append(" behind that row ", every);
  }
  $("runs").tBodies[0].replaceChildren(
    ...kept.map(([name, run]) => {
      const last = run.columns.iteration.length - 1;
      const metric = run.metric ?? Object.keys(run.columns).find(isMetric) ?? "top1";
      const at = (column) => (last < 0 || !run.columns[column] ? null : run.columns[column][last]);
      const cells = [
        name, run.task, run.label, run.seed,
        metric.startsWith("top") ? percent(at(metric)) : (metric === "loss" ? at(metric)?.toFixed(4) : at(metric)?.toExponential(1)) ?? "",
        grouped(at("rounds")),
        run.crossing != null ? grouped(run.crossing) : !run.has_baseline ? "no baseline" : run.ended ? "not reached" : "",
        percent(run.skipped, 1), run.device, run.status,
      ];
      const tr = element("tr", "");
      cells.forEach((cell, i) => tr.append(element("td", cell, { class: i > 2 && i < 8 ? "n" : "" })));
      opens(tr, () => showRun(name, tr));
      return tr;
    }),
  );
  hints();
}

function showRun(name, row) {
  document.querySelectorAll("tr.chosen").forEach((one) => one.classList.remove("chosen"));
  row.classList.add("chosen");
  const run = DATA.runs[name];
  const facts = {
    Status: run.status,
    "Made on": `${run.summary.device} (${run.device}), ${run.summary.precision}`,
    Data: run.summary.data,
    Commit: run.commit,
    Versions: Object.entries(run.summary.versions || {}).map((pair) => pair.join(" ")).join(", "),
  };
  const list = element("dl", "");
  const place = element("dd", "");
  place.append(element("a", run.folder, { href: encodeURI(run.folder) }));
  list.append(element("dt", "Folder"), place);
  Object.entries(facts).forEach(([key, value]) => list.append(element("dt", key), element("dd", value ?? "unknown")));
  const command = element("div", "", { class: "command" });
  const copy = element("button", "Copy", { type: "button" });
  copy.onclick = () => navigator.clipboard?.writeText(run.command).then(() => (copy.textContent = "Copied"));
  command.append(element("pre", run.command), copy);
  const details = element("details", "");
  details.append(element("summary", "Configuration"), element("pre", JSON.stringify(run.identity, null, 2)));
  const plots = element("div", "", { class: "plots" });
  const places = Array.from({ length: 4 }, () => element("div", "", { class: "plot" }));
  $("run").hidden = false;
  $("run").dataset.name = name;
  $("run").replaceChildren(element("h3", name), list, element("h3", "The command that repeats it"), command, details, plots);
  drawRun(run, places, plots);
  $("run").scrollIntoView({ block: "nearest" });
}

function drawRun(run, [accuracy, loss, trigger, heat], plots) {
  const epochs = run.columns.epoch;
  if (!epochs) return;
  const line = (name, color, dash = "solid") => ({
    x: epochs, y: run.columns[name], name: name.replace("_", " "), mode: "lines", line: { color: tone(color), dash, width: 2 },
  });
  const found = Object.keys(run.columns).filter(isMetric);
  const falls = found[0] in FALLING;
  const metrics = found.filter((m) => m in FALLING === falls);
  const colors = ["#D55E00", "#0072B2", "#009E73", "#CC79A7"];
  const legend = { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } };
  plots.append(accuracy, loss, ...(run.columns.threshold ? [trigger] : []), ...(run.uploads ? [heat] : []));
  draw(accuracy, metrics.map((m, i) => line(m, colors[i % 4])), layout("epoch", !falls ? "test accuracy" : found[0] === "loss" ? FALLING.loss : "objective", { ...legend,
    yaxis: falls ? logAxis(metrics.flatMap((m) => run.columns[m])) : { tickformat: ".4~%" } }));
  draw(loss, [line("training_loss", "#0072B2")], layout("epoch", "training loss", { yaxis: logAxis(run.columns.training_loss) }));
  if (run.columns.threshold) {
    const lines = [line("threshold", "#D55E00"), line("difference_mean", "#0072B2"), line("difference_max", "#0072B2", "dot"),
      line("difference_min", "#0072B2", "dash")];
    draw(trigger, lines, layout("epoch", "what the trigger compares", { ...legend, yaxis: logAxis(lines.flatMap((one) => one.y)) }));
  }
  if (run.uploads) {
    const bins = run.uploads[0].length;
    const map = {
      type: "heatmap", z: run.uploads, zmin: 0, zmax: 1, colorscale: "Cividis", colorbar: { tickformat: ".0%", thickness: 12 },
      x: Array.from({ length: bins }, (_, i) => ((i + 0.5) * epochs[epochs.length - 1]) / bins),
      y: run.uploads.map((_, m) => m + 1),
      hovertemplate: "worker %{y}, epoch %{x:.1f}: %{z:.0%} of iterations<extra></extra>",
    };
    draw(heat, [map], layout("epoch", "worker (share of uploads)", { yaxis: { autorange: "reversed" } }));
  }
}

// --- start

function start() {
  const done = Object.keys(DATA.runs).length;
  const planned = DATA.views.filter((view) => view.finished < view.planned);
  const missing = planned.map((view) => `${view.label} ${view.planned - view.finished} of ${view.planned}`);
  $("status").textContent = `${counted(done, "run")}. ${missing.length ? `Not finished: ${missing.join("; ")}.` : ""}`;
  $("commands").textContent = DATA.again;
  const options = DATA.views.map((view, i) => new Option(view.finished ? view.label : `${view.label} (not run)`, i));
  $("view").replaceChildren(...options);
  $("view").value = Math.max(0, DATA.views.findIndex((view) => view.finished));
  $("link").replaceChildren(...DATA.links.filter((name) => name !== "ideal").map((name) => new Option(name, name)));
  quantities();
  $("view").onchange = () => {
    quantities();
    refresh();
  };
  ["y", "x", "link", "log"].forEach((id) => ($(id).onchange = drawCurves));
  dark.onchange = () => {
    refresh();
    document.querySelector("tr.chosen")?.click();
  };
  tables();
  fillFilters();
  listRuns();
  refresh();
  window.addEventListener("resize", hints);
}

start();
