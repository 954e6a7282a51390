"use strict";
// Okabe and Ito's colours, darkened until white text can be read on them.
const COLOURS = ["#2a7fb0", "#00795a", "#b84a00", "#9a5081", "#8a6500", "#5b5fc7", "#4b5563"];

// ---- small tools ----

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const number = (value, digits = 3) => Number(value.toPrecision(digits)).toString();
const unique = (values) => [...new Set(values)];
const runs = (allocation) => allocation.split("+").map((part) => {
  const at = part.lastIndexOf("*");
  return [part.slice(0, at), Number(part.slice(at + 1))];
});

// Round values between two ends: of a logarithmic axis 1, 2 and 5 times powers of ten.
function ticks(low, high, log) {
  const found = [];
  if (log) {
    const steps = high / low > 12 ? [1, 2, 5] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const one of steps) found.push(one * 10 ** power);
    }
  } else {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
    for (let k = Math.ceil(low / step); k * step <= high; k += 1) found.push(k * step);
  }
  return found.filter((one) => one >= low && one <= high);
}

// ---- the frontier of one zoo's records ----

function explorer(box, index) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const groups = settings(data.points.filter((one) => one.gmacs !== null || Object.keys(one.times).length));
  if (!groups.length) {
    box.append(html("p", {}, "No record says what its images cost, so there is nothing to draw."));
    return;
  }
  const axes = () => xAxes(points());
  const select = (label) => html("select", { "aria-label": label });
  const controls = { setting: select("setting"), x: select("horizontal axis"), y: select("vertical axis") };
  const chart = html("div", { class: "chart" });
  const difference = html("p", { class: "difference", "aria-live": "polite" });
  const pair = html("div", { class: "pair" });
  const slider = html("div", { class: "slider" });
  const chosen = { A: null, B: null };
  let active = "B";
  let width = 0;

  box.append(
    html("p", {}, "A point is an allocation of the steps. The line joins those that no other beats in time and in quality; orange are single denoisers. Choose a point to see it below, beside another."),
    html("div", { class: "controls" },
      html("label", {}, "setting", controls.setting),
      html("label", {}, "along", controls.x),
      html("label", {}, "up", controls.y)),
    chart, slider, pair, difference);

  for (const protocol of unique(groups.map((group) => group.protocol))) {
    const family = html("optgroup", { label: protocol });
    groups.forEach((group, index) => {
      if (group.protocol !== protocol) return;
      family.append(html("option", { value: index }, `${group.name} (${group.points.length})`));
    });
    controls.setting.append(family);
  }
  data.metrics.forEach((metric) => controls.y.append(html("option", { value: metric.name }, metric.label)));

  const points = () => groups[controls.setting.value].points;
  const metric = () => data.metrics.find((one) => one.name === controls.y.value);
  const axis = () => axes().find((one) => one.name === controls.x.value);
  const shown = () => points().filter((one) => axis().of(one) !== null && one.metrics[metric().name] !== undefined);

  function changeSetting() {
    const before = controls.x.value;
    controls.x.replaceChildren(...axes().map((one) => html("option", { value: one.name }, one.name)));
    if (axes().some((one) => one.name === before)) controls.x.value = before;
    start();
    drawSlider();
    draw();
  }

  // The largest denoiser by itself, and the fastest allocation that is as good.
  function start() {
    const sign = metric().better === "higher" ? -1 : 1;
    const value = (point) => sign * point.metrics[metric().name];
    const all = shown().length ? shown() : points();
    const alone = all.filter((one) => runs(one.allocation).length === 1);
    const rank = (one) => data.denoisers.indexOf(runs(one.allocation)[0][0]);
    const order = (a, b) => axis().of(a) - axis().of(b);
    const large = [...(alone.length ? alone : all)].sort((a, b) => rank(b) - rank(a) || order(b, a))[0];
    chosen.A = large;
    chosen.B = all.filter((one) => value(one) <= value(large)).sort(order)[0] ?? large;
  }

  function choose(point, letter = active) {
    chosen[letter] = point;
    draw();
  }

  // ---- the chart ----

  function draw() {
    const focused = chart.contains(document.activeElement) ? document.activeElement.dataset.record : null;
    const all = shown().sort((a, b) => axis().of(a) - axis().of(b));
    const best = frontier(all, axis().of, metric());
    chart.replaceChildren(all.length ? picture(all, best) : html("p", {}, `No point has ${metric().label} and ${axis().name}.`));
    drawCards();
    if (focused) chart.querySelector(`[data-record="${focused}"]`)?.focus();
  }

  function picture(all, best) {
    width = Math.max(300, Math.min(1152, chart.clientWidth || 720));
    const height = Math.round(Math.max(300, Math.min(460, width * 0.55)));
    const room = { left: 52, right: 20, top: 16, bottom: 44 };
    const values = all.map((one) => one.metrics[metric().name]);
    const scale = (list, from, to) => {
      const low = Math.min(...list), high = Math.max(...list);
      const log = low > 0 && high / low > 2.5;
      const [f, pad] = log ? [Math.log, Math.log(high / low) * 0.06] : [(v) => v, (high - low) * 0.06 || 1];
      const [start, end] = [f(low) - pad, f(high) + pad];
      const back = log ? Math.exp : (v) => v;
      const place = (value) => from + ((f(value) - start) / (end - start)) * (to - from);
      return { place, ticks: ticks(back(start), back(end), log) };
    };
    const x = scale(all.map(axis().of), room.left, width - room.right);
    const y = scale(values, height - room.bottom, room.top);
    const at = (one) => [x.place(axis().of(one)), y.place(one.metrics[metric().name])];
    const drawn = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": `${metric().label} against ${axis().name} of ${all.length} allocations. Arrow keys go from point to point, Enter chooses.`,
    });
    thinned(x.ticks.map((tick) => [x.place(tick), tick]), 34).forEach(([place, tick]) => drawn.append(
      svg("line", { class: "grid", x1: place, x2: place, y1: room.top, y2: height - room.bottom }),
      svg("text", { x: place, y: height - room.bottom + 18, "text-anchor": "middle" }, number(tick))));
    thinned(y.ticks.map((tick) => [y.place(tick), tick]), 18).forEach(([place, tick]) => drawn.append(
      svg("line", { class: "grid", x1: room.left, x2: width - room.right, y1: place, y2: place }),
      svg("text", { x: room.left - 7, y: place + 4, "text-anchor": "end" }, number(tick))));
    const sense = metric().better === "higher" ? "higher is better" : "lower is better";
    drawn.append(
      svg("text", { x: (room.left + width) / 2, y: height - 8, "text-anchor": "middle" }, width < 560 ? axis().name.split(" (")[0] : axis().name),
      svg("text", { x: 14, y: (height - room.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(height - room.bottom) / 2})` }, `${metric().label} (${sense})`),
      svg("path", { class: "best", d: `M${best.map((one) => at(one).join(",")).join("L")}` }));
    const current = all.includes(chosen[active]) ? chosen[active] : all[0];
    all.forEach((one) => drawn.append(mark(one, at(one), best.includes(one), one === current)));
    for (const letter of ["A", "B"]) {
      if (!all.includes(chosen[letter])) continue;
      const [cx, cy] = at(chosen[letter]);
      drawn.append(svg("text", { class: "letter", x: cx, y: cy + 23, "text-anchor": "middle" }, letter));
    }
    return drawn;
  }

  function mark(one, [cx, cy], on, current) {
    const names = runs(one.allocation).map(([name]) => name);
    const single = names.length === 1 && data.denoisers.includes(names[0]);
    const chosenNow = one === chosen.A || one === chosen.B;
    const kind = ["point", on && "on", single && "single", chosenNow && "chosen"].filter(Boolean).join(" ");
    const point = svg("g", {
      class: kind, role: "button", tabindex: current ? 0 : -1, "data-record": one.record,
      "aria-label": `${one.allocation}: ${facts(one).map((fact) => fact.join(" ")).join(", ")}${on ? ", on the frontier" : ""}`,
      "aria-pressed": chosenNow,
    },
      svg("circle", { class: "area", cx, cy, r: 9 }),
      svg("circle", { class: "ring", cx, cy, r: 8 }),
      svg("circle", { class: "dot", cx, cy, r: single ? 5.5 : 4 }),
      single ? svg("text", { class: "name", x: cx, y: cy - 10, "text-anchor": cx > width - 60 ? "end" : "middle" }, names[0]) : null);
    for (const event of ["pointerenter", "focus"]) point.addEventListener(event, () => tip(one, cx, cy));
    for (const event of ["pointerleave", "blur"]) point.addEventListener(event, () => chart.querySelector(".tip")?.remove());
    point.addEventListener("click", () => choose(one));
    point.addEventListener("keydown", (event) => keyed(event, point, one));
    return point;
  }

  function keyed(event, point, one) {
    const order = [...chart.querySelectorAll(".point")];
    const place = order.indexOf(point);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place - 1, ArrowUp: place + 1, Home: 0, End: order.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") choose(one);
    else if (order[next]) {
      order.forEach((other) => other.setAttribute("tabindex", -1));
      order[next].setAttribute("tabindex", 0);
      order[next].focus();
    } else if (next === undefined) return;
    event.preventDefault();
  }

  function tip(one, cx, cy) {
    chart.querySelector(".tip")?.remove();
    const shownTip = html("div", { class: "tip", role: "tooltip" }, html("b", {}, one.allocation),
      ...facts(one).flatMap(([name, value]) => [`${name} ${value}`, html("br")]), html("code", {}, one.record));
    chart.append(shownTip);
    const factor = chart.clientWidth / width;
    const right = cx * factor + 14 + shownTip.offsetWidth > chart.clientWidth;
    const left = right ? cx * factor - 14 - shownTip.offsetWidth : cx * factor + 14;
    shownTip.style.left = `${Math.max(0, Math.min(left, chart.clientWidth - shownTip.offsetWidth))}px`;
    shownTip.style.top = `${Math.max(0, cy * factor - shownTip.offsetHeight / 2)}px`;
  }

  // Every number of a point: quality, multiply-accumulates, and time by what took it.
  function facts(one) {
    const quality = data.metrics.filter((each) => each.name in one.metrics)
      .map((each) => [each.label, one.metrics[each.name].toFixed(Math.max(3, each.digits))]);
    const cost = one.gmacs === null ? [] : [["GMACs per image", number(one.gmacs)]];
    const times = Object.entries(one.times).map(([device, time]) => [`ms per image (${device})`, number(time)]);
    return [...quality, ...cost, ...times];
  }

  // ---- two settings side by side ----

  function drawCards() {
    pair.replaceChildren(...["A", "B"].map((letter) => card(letter, chosen[letter])));
    difference.textContent = chosen.A && chosen.B ? compare(chosen.A, chosen.B) : "";
  }

  function card(letter, one) {
    const radio = html("input", { type: "radio", name: `active-${index}`, value: letter });
    radio.checked = letter === active;
    radio.addEventListener("change", () => { active = letter; draw(); });
    const total = runs(one.allocation).reduce((sum, [, count]) => sum + count, 0);
    const steps = html("div", { class: "steps", role: "img", "aria-label": `steps from noise to image: ${one.allocation}` },
      ...runs(one.allocation).map(([name, count]) => {
        return html("span", { style: `width:${(100 * count) / total}%;background:${colour(name)}`, title: `${name}: ${count} of ${total} steps` }, name);
      }));
    const list = html("dl", {}, ...facts(one).map(([name, value]) => html("div", { class: name.includes("(") ? "long" : null }, html("dt", {}, name), html("dd", {}, value))));
    const pictures = one.pictures
      ? [html("img", { src: one.pictures, alt: `samples of ${one.allocation}` })]
      : [html("p", { class: "how" }, "No pictures are kept of it. To make them, and then this page again: ", html("code", {}, one.command))];
    return html("div", { class: `card ${letter === active ? "active" : ""}`, "data-card": letter },
      html("label", {}, radio, " a point goes here"), html("h4", {}, `${letter}: ${one.allocation}`),
      steps, list, ...pictures, html("p", {}, `${one.setting}, ${one.protocol}, `, html("code", {}, one.record)));
  }

  // Other weights of a denoiser (DiT-XL@0-199) have its colour; what is no denoiser has the last one.
  function colour(name) {
    const place = data.denoisers.indexOf(name.split("@")[0]);
    return place < 0 ? COLOURS.at(-1) : COLOURS[place % (COLOURS.length - 1)];
  }

  function compare(a, b) {
    if (a === b) return "A and B are the same.";
    const words = [];
    const shared = Object.keys(a.times).find((device) => device in b.times);
    const [one, other, what, faster] = shared
      ? [a.times[shared], b.times[shared], "time", "times as fast"]
      : [a.gmacs, b.gmacs, "multiply-accumulates", "times fewer"];
    if (one && other) {
      const ratio = other < one ? ` (${number(one / other)} ${faster})` : "";
      words.push(`B takes ${number(other / one)} times the ${what} of A${ratio}`);
    }
    if (a.protocol !== b.protocol) return `${words.join("; ")}. Their metrics do not compare: ${a.protocol} and ${b.protocol}.`;
    for (const each of data.metrics) {
      const [one, other] = [a.metrics[each.name], b.metrics[each.name]];
      if (one === undefined || other === undefined) continue;
      const sign = other > one ? "+" : "−";
      words.push(`${each.label} ${sign}${Math.abs(other - one).toFixed(Math.max(3, each.digits))}`);
    }
    return `${words.join("; ")}.`;
  }

  // ---- the share of the small denoiser ----

  function drawSlider() {
    const lines = pairs(points(), data.denoisers);
    slider.replaceChildren();
    if (!lines.length) return;
    const which = select("pair of denoisers");
    lines.forEach((line, index) => which.append(html("option", { value: index }, line.name)));
    const input = html("input", { type: "range", min: 0, step: 1, value: 0 });
    const output = html("output");
    const say = (slide) => {
      const line = lines[which.value];
      input.max = line.points.length - 1;
      const { share, point } = line.points[Math.min(input.value, input.max)];
      const text = `${line.small} in ${Math.round(100 * share)} % of the steps`;
      output.textContent = slide ? text : "";
      input.setAttribute("aria-label", `share of ${line.small} in ${line.name}`);
      input.setAttribute("aria-valuetext", text);
      if (slide) choose(point, "B");
    };
    input.addEventListener("input", () => say(true));
    which.addEventListener("change", () => say(true));
    slider.append(html("div", { class: "controls" }, html("label", {}, "share of the smaller one in", which), output), input);
    say(false);
  }

  controls.setting.addEventListener("change", changeSetting);
  for (const name of ["x", "y"]) controls[name].addEventListener("change", draw);
  changeSetting();
  new ResizeObserver(() => { if (Math.abs(chart.clientWidth - width) > 8) draw(); }).observe(box);
}

// Points that differ in their allocations only; the settings with most points first.
function settings(points) {
  const groups = new Map();
  const add = (name, protocol, point) => {
    const key = `${protocol}|${name}`;
    if (!groups.has(key)) groups.set(key, { name, protocol, points: [] });
    groups.get(key).points.push(point);
  };
  for (const point of points) add(point.setting, point.protocol, point);
  const found = [...groups.values()].sort((a, b) => b.points.length - a.points.length);
  const all = unique(found.map((group) => group.protocol))
    .map((protocol) => ({ name: "all settings", protocol, points: points.filter((one) => one.protocol === protocol) }));
  return [...found.filter((group) => group.points.length > 1), ...all];
}

// What can be drawn along: MACs, and the time on every device that has timed most points. The first
// is drawn first: a time, if it is known of nearly all.
function xAxes(points) {
  const timed = unique(points.flatMap((one) => Object.keys(one.times)))
    .map((device) => ({ name: `ms per image (${device})`, of: (one) => one.times[device] ?? null }));
  const counted = (one) => points.filter((point) => one.of(point) !== null).length;
  const axes = [{ name: "GMACs per image", of: (one) => one.gmacs }, ...timed];
  const nearlyAll = (one) => timed.includes(one) && counted(one) > 0.9 * points.length;
  return axes.filter((one) => counted(one) > points.length / 2)
    .sort((a, b) => nearlyAll(b) - nearlyAll(a));
}

// The points, by ascending cost, that no cheaper one beats.
function frontier(sorted, cost, metric) {
  const sign = metric.better === "higher" ? -1 : 1;
  let best = Infinity;
  return sorted.filter((one) => {
    const value = sign * one.metrics[metric.name];
    if (value >= best) return false;
    best = value;
    return true;
  });
}

// Labels that would touch the one before are left out.
function thinned(placed, apart) {
  let before = -Infinity;
  return [...placed].sort((a, b) => a[0] - b[0]).filter(([place]) => {
    if (place - before < apart) return false;
    before = place;
    return true;
  });
}

// Pairs of denoisers, the smaller first, with three shares or more.
function pairs(points, denoisers) {
  const found = [];
  const rank = (name) => denoisers.indexOf(name);
  for (const small of denoisers) {
    for (const large of denoisers.slice(denoisers.indexOf(small) + 1)) {
      const line = [];
      for (const point of points) {
        const parts = runs(point.allocation);
        const names = parts.map(([name]) => name);
        const total = parts.reduce((sum, [, count]) => sum + count, 0);
        if (parts.length === 2 && names[0] === small && names[1] === large) line.push({ share: parts[0][1] / total, point });
        else if (parts.length === 1 && names[0] === small) line.push({ share: 1, point });
        else if (parts.length === 1 && names[0] === large) line.push({ share: 0, point });
      }
      const shares = unique(line.map((one) => one.share)).sort((a, b) => a - b);
      const sorted = shares.map((share) => line.find((one) => one.share === share));
      if (sorted.length > 2) found.push({ small, large, name: `${small} then ${large}`, points: sorted });
    }
  }
  return found.sort((a, b) => b.points.length - a.points.length || rank(b.large) - rank(a.large) || rank(a.small) - rank(b.small));
}

// ---- the page ----

function sortable(table) {
  for (const head of table.querySelectorAll("th")) {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const key = (row) => row.cells[head.cellIndex].textContent;
      const order = (a, b) => (isNaN(a) || isNaN(b) || a === "" || b === "" ? a.localeCompare(b) : a - b);
      const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)));
      table.tBodies[0].append(...rows);
      for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  }
}

document.querySelectorAll(".explorer").forEach(explorer);
document.querySelectorAll(".sortable table").forEach(sortable);
for (const image of document.querySelectorAll(".drawn img")) {
  if (image.width > 760) image.closest(".drawn").classList.add("wide");
}
// The contents fold where they would stand above the page instead of beside it.
const beside = matchMedia("(min-width: 1100px)");
const fold = () => { document.querySelector("nav details").open = beside.matches; };
beside.addEventListener("change", fold);
fold();
