"use strict";
// The page of one run: takes events from the server, and shows what they say. Whatever comes from a
// host gets into the document as text only.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MOST_POINTS = 1200;
// A curve shows means over so many points.
const SMOOTH = 3;
const STALE_MS = 6000;
// For whom the others wait, and after how many tenths of a second that is worth a mark.
const IN_STEP = new Set(["receiving", "repairing", "verifying"]);
const HOLD = 10;
// So many hosts are shown with all about them; of more, names of so many letters are shown whole.
const FEW = 40;
const SHORT = 9;
const AGAIN_MS = 5000;

let states = [];
let run = {};
let columns = {};
let points = [];
let cells = [];
let order = [];
let chips = new Map();
let shown = new Set();
let common = [0, 0];
let current = 0;
let opened = null;
let heardAt = 0;
let isOver = false;
let source = null;

// Numbers and units as people read them.

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
  const digits = unit === 0 || value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function percent(share) {
  const value = 100 * share;
  if (value === 0) return "0 %";
  return value < 0.01 ? "< 0.01 %" : `${value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0)} %`;
}

function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

function text(id, value) {
  const element = $(id);
  if (element.textContent !== value) element.textContent = value;
}

// What the server says.

function begin() {
  if (source) source.close();
  source = new EventSource("events");
  source.addEventListener("whole", (event) => heard(whole, JSON.parse(event.data)));
  source.addEventListener("change", (event) => heard(change, JSON.parse(event.data)));
  source.onerror = () => {
    if (isOver) return;
    $("phase").dataset.kind = "lost";
    trouble("Nothing comes from the server any more; still trying. What is shown may be old.");
    if (source.readyState === EventSource.CLOSED) setTimeout(begin, AGAIN_MS);
  };
}

function heard(take, data) {
  heardAt = Date.now();
  take(data);
  trouble(null);
  if (run.status !== null && !isOver) {
    isOver = true;
    source.close();
  }
  show();
}

function whole(data) {
  states = data.states;
  run = data.run;
  columns = data.columns;
  points = data.points;
  makeChips();
  makeCells();
}

function change(data) {
  Object.assign(run, data.run);
  const touched = new Set();
  for (const [name, news] of Object.entries(data.columns)) {
    const column = columns[name];
    if (Array.isArray(news)) {
      news.forEach((value, number) => {
        if (column[number] !== value) touched.add(number);
        column[number] = value;
      });
    } else {
      news.at.forEach((number, place) => {
        column[number] = news.to[place];
        touched.add(number);
      });
    }
  }
  for (const column of Object.values(columns)) column.length = data.hosts;
  for (const point of data.points) add(point);
  if (cells.length !== data.hosts) makeCells();
  for (const number of touched) if (number < data.hosts) showCell(number);
}

function add(point) {
  const last = points[points.length - 1];
  if (last && point[0] < last[0]) points = [];
  if (last && point[0] === last[0]) points.pop();
  points.push(point);
  if (points.length > MOST_POINTS) points = points.filter((_, n) => n % 2 === 0 || n === points.length - 1);
}

function trouble(words) {
  $("trouble").hidden = !words;
  if (words) text("trouble", words);
}

setInterval(() => {
  if (!isOver && heardAt && Date.now() - heardAt > STALE_MS) {
    trouble(`Nothing has come from the server for ${duration((Date.now() - heardAt) / 1000)}.`);
  }
}, 1000);

// The run as a whole.

function show() {
  showHead();
  showBarrier();
  showPlots();
  showChips();
  arrange();
  if (opened !== null) showDetails();
}

function showHead() {
  const name = run.name || "an image";
  text("name", name);
  const where = run.group === null ? `TCP port ${run.port}` : `${run.group}, port ${run.port}`;
  const dialect = run.dialect === "kollacast" ? "" : `, ${run.dialect} dialect`;
  text("about", `kollacast to ${plural(run.expected, "host")}, ${where}${dialect}`);
  const share = run.total === null ? null : run.total ? run.bytes / run.total : 1;
  text("percent", share === null ? bytes(run.bytes) : `${Math.floor(100 * share)} %`);
  text("amount", share === null ? "of a pipe" : `${bytes(run.bytes)} of ${bytes(run.total)}`);
  const words = [];
  if (run.seconds > 0) words.push(`${duration(run.seconds)}${isOver ? "" : " so far"}`);
  if (run.left !== null && run.phase === "sending") words.push(`about ${duration(run.left)} left`);
  text("left", words.join(", "));
  if (share === null && !isOver) $("bar").removeAttribute("value");
  else $("bar").value = share === null ? 1000 : Math.floor(1000 * share);
  const phase = $("phase");
  phase.dataset.kind = !isOver ? run.phase === "starting" ? "starting" : "on" : run.status === 0 ? "good" : "bad";
  const ends = { 0: "done", 4: "done in part" };
  text("phase", isOver ? ends[run.status] || "failed" : run.phase);
  document.title = `${isOver ? phase.textContent : share === null ? run.phase : `${Math.floor(100 * share)} %`} · ${name}`;
  $("outcome").hidden = !isOver;
  if (isOver) showOutcome();
}

function showOutcome() {
  $("outcome").classList.toggle("good", run.status === 0);
  text("message", run.message || "");
  text("digest", run.digest.join(" "));
  $("diagnosis").replaceChildren(...(run.diagnosis || []).map((line) => {
    const item = document.createElement("li");
    item.textContent = line;
    return item;
  }));
}

function showBarrier() {
  // Where most are late, it is none of them that holds up the others.
  const mostWait = run.waits > 3 && 2 * run.waits > run.present;
  $("hosts").classList.toggle("late", mostWait);
  const held = !isOver && run.waits > 0;
  $("barrier").classList.toggle("held", held);
  $("barrier").hidden = isOver;
  if (!held) {
    const waiting = run.phase === "waiting for clients";
    const missing = run.expected - run.present;
    text("held", waiting ? `${run.present} of ${plural(run.expected, "host")} here, ${missing} to come.` : "Nobody holds up the others.");
    return;
  }
  if (mostWait) {
    const seconds = (run.holding[0][2] / 10).toFixed(1);
    text("held", `${count(run.waits)} hosts owe an answer, the slowest for ${seconds} s: it is the network that is slow, or the server.`);
    return;
  }
  const named = run.holding.map(([number, owes, tenths]) =>
    `${columns.name[number]} (${owes} for ${(tenths / 10).toFixed(1)} s)`);
  const more = run.waits - run.holding.length;
  if (more > 0) named.push(`${count(more)} more`);
  text("held", `All wait for ${named.join(", ")}.`);
}

// Plots. Each curve is made of sums, by the differences between them.

function rates(of) {
  const found = [];
  for (let n = 1; n < points.length; n += 1) {
    // Buffers are large, and come now and then.
    const before = points[Math.max(0, n - SMOOTH)];
    const span = points[n][0] - before[0];
    const value = span > 0 ? of(points[n], before, span) : null;
    if (value !== null) found.push([points[n][0], value]);
  }
  return found;
}

function showPlots() {
  const image = rates((now, before, span) => (now[1] - before[1]) / span);
  // Of moments in which nobody has answered for anything, nothing is known.
  const loss = rates((now, before) => now[2] > before[2] ? (now[3] - before[3]) / (now[2] - before[2]) : null);
  const coded = rates((now, before, span) => (now[4] - before[4]) / span);
  const resent = rates((now, before, span) => (now[5] - before[5]) / span);
  plot("plot-rate", [image], (value) => `${bytes(value)}/s`, 1e6);
  plot("plot-loss", [loss], percent, 0.01);
  plot("plot-repairs", [coded, resent], (value) => `${count(value)}/s`, 10);
  text("rate", run.seconds > 0 ? `${bytes(run.rate)}/s` : "–");
  const last = points[points.length - 1];
  text("loss", last && last[2] ? `${percent(last[3] / last[2])} in all` : "–");
  text("repairs", last ? plural(last[4] + last[5], "packet") : "–");
}

function thinned(curve, most) {
  const step = Math.ceil(curve.length / most);
  if (step <= 1) return curve;
  const kept = [];
  for (let n = 0; n < curve.length; n += step) {
    const part = curve.slice(n, n + step);
    kept.push([part[part.length - 1][0], part.reduce((sum, [, value]) => sum + value, 0) / part.length]);
  }
  return kept;
}

function plot(id, curves, label, least) {
  const svg = $(id).querySelector("svg");
  const width = Math.max(svg.clientWidth, 120);
  const height = Math.max(svg.clientHeight, 60);
  const [top, bottom] = [14, height - 18];
  const ends = curves.flat();
  const from = points.length ? points[0][0] : 0;
  const until = Math.max(points.length ? points[points.length - 1][0] : 0, from + 5);
  const most = nice(Math.max(least, ...ends.map(([, value]) => value)));
  const x = (seconds) => width * (seconds - from) / (until - from);
  const y = (value) => bottom - (bottom - top) * value / most;
  const parts = [
    make("line", { class: "rule", x1: 0, x2: width, y1: top, y2: top }),
    make("line", { class: "rule", x1: 0, x2: width, y1: bottom, y2: bottom }),
    make("text", { x: 0, y: top - 4 }, label(most)),
    make("text", { x: 0, y: height - 4 }, duration(from)),
    make("text", { x: width, y: height - 4, "text-anchor": "end" }, duration(until)),
  ];
  curves.forEach((curve, number) => {
    if (!curve.length) return;
    const spots = thinned(curve, 300).map(([seconds, value]) => `${x(seconds).toFixed(1)},${y(value).toFixed(1)}`);
    const first = `${x(from).toFixed(1)},${spots[0].split(",")[1]}`;
    const line = [first, ...spots].join(" ");
    if (curves.length === 1) {
      const end = spots[spots.length - 1].split(",")[0];
      parts.push(make("polygon", { class: "area", points: `0,${bottom} ${line} ${end},${bottom}` }));
    }
    parts.push(make("polyline", { class: `curve ${number ? "two" : "one"}`, points: line }));
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

function make(tag, attributes, content) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (content !== undefined) element.textContent = content;
  return element;
}

// Hosts.

function makeChips() {
  chips = new Map(states.map((state) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.dataset.state = state;
    chip.setAttribute("aria-pressed", "false");
    chip.append(document.createTextNode(`${state} `), document.createElement("b"));
    chip.addEventListener("click", () => {
      if (shown.has(state)) shown.delete(state);
      else shown.add(state);
      showChips();
      arrange();
    });
    return [state, chip];
  }));
  $("states").replaceChildren(...chips.values());
}

function showChips() {
  const counts = new Array(states.length).fill(0);
  for (const state of columns.state) counts[state] += 1;
  states.forEach((state, number) => {
    const chip = chips.get(state);
    chip.querySelector("b").textContent = count(counts[number]);
    chip.setAttribute("aria-pressed", String(shown.has(state)));
    chip.hidden = !counts[number] && !shown.has(state);
  });
  const missing = run.expected - columns.name.length;
  const words = [`${count(columns.name.length)} of ${count(run.expected)}`];
  if (missing > 0) words.push(`${count(missing)} ${isOver ? "never came" : "not here yet"}`);
  if (run.verified) words.push(`${count(run.verified)} ${run.verified === 1 ? "has" : "have"} the image`);
  text("count", words.join(", "));
}

function makeCells() {
  const many = columns.name.length;
  const size = many <= FEW ? "large" : many <= 320 ? "middle" : "small";
  for (const other of ["large", "middle", "small"]) $("hosts").classList.toggle(other, other === size);
  common = shared(columns.name);
  while (cells.length > many) cells.pop().remove();
  while (cells.length < many) {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.className = "cell";
    cell.tabIndex = -1;
    cell.dataset.number = cells.length;
    cell.append(document.createElement("b"), document.createElement("span"));
    cells.push(cell);
    $("hosts").append(cell);
  }
  for (let number = 0; number < many; number += 1) showCell(number);
}

// What all names begin and end with, which tells none from another.
function shared(all) {
  if (all.length < 2) return [0, 0];
  const least = Math.min(...all.map((name) => name.length));
  const alike = (at) => all.every((name) => name.at(at) === all[0].at(at));
  let before = 0;
  while (before < least && alike(before)) before += 1;
  let behind = 0;
  while (behind < least - before && alike(-1 - behind)) behind += 1;
  return [before, behind];
}

function label(name) {
  if (name.length <= SHORT || cells.length <= FEW) return name;
  const [before, behind] = common;
  const middle = name.slice(before, name.length - behind);
  return before > 1 ? `…${middle}` : middle || name;
}

function showCell(number) {
  const cell = cells[number];
  const state = states[columns.state[number]];
  const done = columns.done[number] / 10;
  const loss = columns.loss[number];
  cell.dataset.state = state;
  cell.classList.toggle("late", columns.owed[number] >= HOLD && IN_STEP.has(state));
  cell.style.setProperty("--done", `${done}%`);
  cell.firstChild.textContent = label(columns.name[number]);
  const words = state === "failed" ? columns.reason[number] || "gone" : `${Math.floor(done)} %`;
  cell.lastChild.textContent = loss ? `${words}, lost ${percent(loss / 10000)}` : words;
  cell.title = `${columns.name[number]}: ${state}, ${Math.floor(done)} %`;
  cell.setAttribute("aria-label", cell.title);
}

const KEYS = {
  came: () => 0,
  state: (n) => -columns.state[n],
  done: (n) => columns.done[n],
  loss: (n) => -(columns.loss[n] || 0),
  name: () => 0,
};
const names = new Intl.Collator("en", { numeric: true });

function arrange() {
  const wanted = $("search").value.trim().toLowerCase();
  const by = $("sort").value;
  const key = KEYS[by];
  const all = [...cells.keys()];
  order = all.filter((n) =>
    (!shown.size || shown.has(states[columns.state[n]])) &&
    (!wanted || `${columns.name[n]} ${columns.address[n]}`.toLowerCase().includes(wanted)));
  order.sort((a, b) => by === "name" ? names.compare(columns.name[a], columns.name[b]) : key(a) - key(b) || a - b);
  const places = new Map(order.map((n, place) => [n, place]));
  for (const n of all) {
    cells[n].hidden = !places.has(n);
    cells[n].style.order = places.get(n) ?? "";
  }
  if (!places.has(current)) current = order[0] ?? 0;
  cells.forEach((cell, n) => { cell.tabIndex = n === current ? 0 : -1; });
  $("none").hidden = order.length > 0;
  text("none", cells.length ? "No host is like that." : "No host is here yet.");
}

function focus(place) {
  const number = order[Math.min(Math.max(place, 0), order.length - 1)];
  if (number === undefined) return;
  cells[current].tabIndex = -1;
  current = number;
  cells[current].tabIndex = 0;
  cells[current].focus();
}

$("hosts").addEventListener("keydown", (event) => {
  const across = getComputedStyle($("hosts")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  focus(order.indexOf(current) + steps[event.key]);
});
$("hosts").addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  current = opened = Number(cell.dataset.number);
  showDetails();
  $("details").showModal();
});
$("details").addEventListener("close", () => {
  opened = null;
  arrange();
  if (cells[current]) cells[current].focus();
});
$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close();
});
$("search").addEventListener("input", arrange);
$("sort").addEventListener("change", arrange);
window.addEventListener("resize", () => { if (heardAt) showPlots(); });

function showDetails() {
  const fact = (name) => columns[name][opened];
  if (fact("name") === undefined) {
    $("details").close();
    return;
  }
  text("host", fact("name"));
  const loss = fact("loss");
  const rows = [
    ["Address", fact("address")],
    ["State", states[fact("state")]],
    ["Has", run.total === null ? `${fact("done") / 10} % of what was sent` : `${fact("done") / 10} % (${bytes(run.total * fact("done") / 1000)})`],
    ["Lost", loss === null ? "not known yet" : `${percent(loss / 10000)} of what was multicast to it (${plural(fact("lost"), "packet")})`],
    ["Repaired", plural(fact("repaired"), "packet")],
    ["Fetched by TCP", plural(fact("fetched"), "packet")],
    ["Connections", count(fact("connections"))],
  ];
  if (fact("owes")) rows.push(["Owes", `${fact("owes")} for ${(fact("owed") / 10).toFixed(1)} s`]);
  if (fact("fetching")) rows.push(["By TCP because", fact("fetching")]);
  if (fact("reason")) rows.push(["Out because", fact("reason")]);
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => {
    const pair = [document.createElement("dt"), document.createElement("dd")];
    pair[0].textContent = name;
    pair[1].textContent = value;
    return pair;
  }));
}

begin();
