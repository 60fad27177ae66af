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
const OBJECTIVES = { objective: "f(w)", objective_error: "f(w) - f*", gradient_norm: "norm of the gradient" };
const isMetric = (name) => name.startsWith("top") || name in OBJECTIVES;
const percent = (share, digits = 2) => (share == null ? "" : `${(100 * share).toFixed(digits)} %`);
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
  const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 13, family: "system-ui, sans-serif" },
    margin: { l: 60, r: 12, t: 26, b: 46 },
    showlegend: false,
    hoverlabel: { align: "left" },
    ...more,
    xaxis: { ...axis, title: { text: x }, exponentformat: "power", ...more.xaxis },
    yaxis: { ...axis, title: { text: y }, ...more.yaxis },
  };
}

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
  const show = y === "training_loss" ? (value) => value.toPrecision(4) : percent;
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

const here = () => DATA.tasks.find((task) => task.name === $("task").value);

function drawCurves() {
  const task = here();
  const all = DATA.series.filter((one) => one.task === task.name);
  const [x, y] = [$("x").value, $("y").value];
  $("link").disabled = x !== "seconds";
  if (!task.finished) {
    $("plotnote").textContent = "";
    gap($("plot"), `${task.label}: not run (0 of ${task.planned} runs)`);
    return;
  }
  const shown = all.filter((one) => one.runs.length && !hidden.has(one.label));
  const isBaseline = task.baseline != null && y === task.metric;
  const xTitle = x === "seconds" ? `seconds of communication, modelled (link: ${$("link").value})` : X_LABELS[x];
  const yTitle = $("y").selectedOptions[0].text;
  const ys = shown.flatMap((one) => overSeeds(one, x, y).map((p) => p.y)).sort((a, b) => a - b);
  let range;
  const isLog = y === "training_loss" || y in OBJECTIVES;
  if (!isLog && ys.length) {
    const low = Math.min(ys[Math.floor(ys.length * 0.08)], isBaseline ? task.baseline - 0.01 : 1);
    const high = Math.max(ys[ys.length - 1], isBaseline ? task.baseline : 0);
    range = [low - 0.05 * (high - low), Math.min(1.002, high + 0.12 * (high - low))];
  }
  const yaxis = isLog ? { type: "log", dtick: y in OBJECTIVES ? 2 : 1, exponentformat: "power" } : { tickformat: ".4~%", range };
  const baseline = isBaseline
    ? {
        shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: task.baseline, y1: task.baseline, line: { color: "#888", dash: "dot" } }],
        annotations: [{ xref: "paper", x: 1, y: isLog ? Math.log10(task.baseline) : task.baseline, xanchor: "right", yanchor: "top", showarrow: false,
          text: isLog ? `target ${task.baseline}` : `baseline ${percent(task.baseline, 0)}`, font: { size: 11 } }],
      }
    : {};
  const more = { xaxis: { type: $("log").checked ? "log" : "linear" }, yaxis, ...baseline };
  draw($("plot"), shown.flatMap((one) => traces(one, x, y)), layout(xTitle, yTitle, more));
  const counts = all.map((one) => `${one.label} ${one.runs.length ? `${one.runs.length} of ${one.planned}` : "not run"}`);
  const timed = x === "seconds" ? " Modelled times: uploads, flags and downloads of int32 indices; no computation." : "";
  $("plotnote").textContent = `Lines are means over seeds, bands their range. Runs: ${counts.join("; ")}.${timed}`;
}

function chips() {
  const all = DATA.series.filter((one) => one.task === $("task").value);
  $("methods").replaceChildren(
    ...all.map((one) => {
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
  const task = here();
  const run = Object.values(DATA.runs).find((one) => one.task === task.name);
  const metrics = run ? Object.keys(run.columns).filter(isMetric) : [task.metric];
  const before = $("y").value;
  const name = (metric) => OBJECTIVES[metric] ?? `${metric.replace(/^top(\d)/, "top-$1").replace("_", ", ")} test accuracy`;
  $("y").replaceChildren(
    ...metrics.sort((a, b) => (b === task.metric) - (a === task.metric)).map((m) => new Option(name(m), m)),
    new Option("training loss", "training_loss"),
  );
  if (before === "training_loss") $("y").value = before;
}

function refresh() {
  chips();
  drawCurves();
}

// --- tables

function tables() {
  DATA.tables.forEach((table) => {
    const body = element("tbody", "");
    table.rows.forEach((row) => {
      const tr = element("tr", "");
      row.cells.forEach((cell, i) => {
        const missing = cell === "not run" || cell === "not measured";
        tr.append(element("td", cell, { class: `${i > 1 ? "n" : ""}${missing ? " missing" : ""}` }));
      });
      if (row.task) opens(tr, () => showRuns(row.task, row.label));
      body.append(tr);
    });
    const head = element("tr", "");
    table.header.forEach((cell, i) => head.append(element("th", cell, { class: i > 1 ? "n" : "" })));
    const made = element("table", "", { class: "wrap" });
    made.append(element("thead", ""), body);
    made.tHead.append(head);
    const scroll = element("div", "", { class: "scroll" });
    scroll.append(made);
    $("tables").append(element("h3", table.title), element("p", table.note, { class: "note" }), scroll);
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
    $(`filter-${key}`).onchange = listRuns;
  });
  $("filter-text").oninput = listRuns;
}

function showRuns(task, label) {
  const set = (key, value) => {
    $(`filter-${key}`).value = [...$(`filter-${key}`).options].some((option) => option.value === value) ? value : "";
  };
  set("task", task);
  set("label", label);
  set("seed", "");
  $("filter-text").value = "";
  listRuns();
  $("list").scrollIntoView();
}

function listRuns() {
  const text = $("filter-text").value.trim().toLowerCase();
  const all = Object.entries(DATA.runs);
  const kept = all.filter(([name, run]) => {
    const chosen = FILTERS.every((key) => !$(`filter-${key}`).value || String(run[key]) === $(`filter-${key}`).value);
    return chosen && `${name} ${run.device} ${run.summary.device} ${run.commit} ${run.label}`.toLowerCase().includes(text);
  });
  $("count").textContent = `${kept.length} of ${all.length} runs`;
  $("runs").tBodies[0].replaceChildren(
    ...kept.map(([name, run]) => {
      const last = run.columns.iteration.length - 1;
      const task = DATA.tasks.find((one) => one.name === run.task);
      const cells = [
        name, task.label, run.label, run.seed,
        run.status === "finished" ? percent(run.columns[task.metric][last]) : run.status,
        grouped(run.columns.rounds[last]),
        run.crossing == null ? (task.baseline == null ? "" : "not reached") : grouped(run.crossing),
        percent(run.skipped, 1), run.device,
      ];
      const tr = element("tr", "");
      cells.forEach((cell, i) => tr.append(element("td", cell, { class: i > 2 && i < 8 ? "n" : "" })));
      opens(tr, () => showRun(name, tr));
      return tr;
    }),
  );
}

function showRun(name, row) {
  document.querySelectorAll("tr.chosen").forEach((one) => one.classList.remove("chosen"));
  row.classList.add("chosen");
  const run = DATA.runs[name];
  const facts = {
    Folder: run.folder,
    "Made on": `${run.summary.device} (${run.device}), ${run.summary.precision}`,
    Data: run.summary.data,
    Commit: run.commit,
    Versions: Object.entries(run.summary.versions || {}).map((pair) => pair.join(" ")).join(", "),
  };
  const list = element("dl", "");
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
  const line = (name, color, dash = "solid") => ({
    x: epochs, y: run.columns[name], name: name.replace("_", " "), mode: "lines", line: { color: tone(color), dash, width: 2 },
  });
  const metrics = Object.keys(run.columns).filter(isMetric);
  const colors = ["#D55E00", "#0072B2", "#009E73", "#CC79A7"];
  const legend = { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" } };
  plots.append(accuracy, loss);
  draw(accuracy, metrics.map((m, i) => line(m, colors[i % 4])), layout("epoch", metrics[0] in OBJECTIVES ? "objective" : "test accuracy", { ...legend,
    yaxis: metrics[0] in OBJECTIVES ? { type: "log", exponentformat: "power" } : { tickformat: ".4~%" } }));
  draw(loss, [line("training_loss", "#0072B2")], layout("epoch", "training loss", { yaxis: { type: "log" } }));
  if (run.columns.threshold) {
    plots.append(trigger);
    const lines = [line("threshold", "#D55E00"), line("difference_mean", "#0072B2"), line("difference_max", "#0072B2", "dot"),
      line("difference_min", "#0072B2", "dash")];
    draw(trigger, lines, layout("epoch", "what the trigger compares", { ...legend, yaxis: { type: "log" } }));
  }
  if (run.uploads) {
    plots.append(heat);
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
  const notRun = DATA.tasks.filter((task) => task.finished < task.planned);
  const missing = notRun.map((task) => `${task.label} ${task.planned - task.finished} of ${task.planned}`);
  $("status").textContent = `${done} runs. ${missing.length ? `Not run: ${missing.join("; ")}.` : ""}`;
  $("task").replaceChildren(...DATA.tasks.map((t) => new Option(t.finished ? t.label : `${t.label} (not run)`, t.name)));
  $("task").value = (DATA.tasks.find((task) => task.finished) || DATA.tasks[0]).name;
  $("link").replaceChildren(...DATA.links.filter((name) => name !== "ideal").map((name) => new Option(name, name)));
  quantities();
  $("task").onchange = () => {
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
}

start();
