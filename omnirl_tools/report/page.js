"use strict";
// Answers come from a model and may hold anything: they only ever become text nodes, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 20;
const alone = data.names.length === 1; // one evaluation, not two side by side
const TALLEST = 220; // pixels that an upright image may be high
const SVG = "http://www.w3.org/2000/svg";

/** Make an element: attributes as they are, children as nodes or text; nothing for null and false. */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== false && child !== undefined) element.append(child);
  }
  return element;
}

const number = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);
const mood = (value) => (value > 1e-9 ? "up" : value < -1e-9 ? "down" : "");
const isTexts = (value) => Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === "string");
const plain = (value) => (typeof value === "string" ? value : isTexts(value) ? value.join("  or  ") : JSON.stringify(value));
const lastParts = (place) => place.split("/").slice(-2).join("/");
const unique = (values) => [...new Set(values)].filter((value) => value !== "").sort();
const score = (answer) => (answer && answer.score !== null ? answer.score : null);

// --- one answer ---

/** A completion with its tags dimmed; what stands in think and answer gets its own look. */
function completion(answer) {
  const text = make("div", { class: "text", dir: "auto", tabindex: "0" });
  let look = "";
  for (const piece of answer.text.split(/(<\/?(?:think|answer)>)/)) {
    if (piece === "") continue;
    const isTag = /^<\/?(think|answer)>$/.test(piece);
    text.append(make("span", { class: isTag ? "tag" : look }, piece));
    if (isTag) look = piece === "<think>" ? "think" : piece === "<answer>" ? "said" : "";
  }
  if (answer.text === "") text.append(make("span", { class: "none" }, "(empty)"));
  if (answer.cut) text.append(make("span", { class: "none" }, ` … ${answer.cut} more characters in the run's files`));
  return text;
}

function chips(rewards) {
  const list = make("ul", { class: "chips", "aria-label": "Rewards" });
  for (const [name, value] of Object.entries(rewards)) {
    if (value === null) continue;
    const chip = make("li", {}, `${name} ${number(value)}`);
    chip.style.setProperty("--fill", `${100 * Math.min(1, Math.max(0, value))}%`);
    list.append(chip);
  }
  return list;
}

/** Whether the answer is likely to stand below what one sees of the text. */
const isLong = (answer) => answer.said && answer.text.length > 400;

function answerBlock(title, answer, best) {
  const block = make("div", { class: best ? "answer best" : "answer" });
  if (!answer) {
    block.append(make("div", { class: "answer-head" }, make("span", { class: "title" }, title), "not answered yet"));
    return block;
  }
  block.append(
    make("div", { class: "answer-head" },
      title && make("span", { class: "title" }, title),
      make("strong", { title: "score" }, number(answer.score)),
      answer.advantage !== null && make("span", { class: mood(answer.advantage) }, `advantage ${signed(answer.advantage)}`),
      answer.tokens !== null && make("span", {}, `${answer.tokens} tokens`),
      answer.clipped && make("span", { class: "chip warn" }, "clipped"),
      answer.said === null && make("span", { class: "chip warn", title: "no closed <answer>: rewards that read the answer give 0" }, "no answer found")),
    completion(answer), chips(answer.rewards));
  if (isLong(answer)) block.querySelector(".answer-head").after(
    make("p", { class: "reply" }, make("span", { class: "quiet" }, "Answer "), make("b", { dir: "auto" }, answer.said)));
  return block;
}

// --- images ---

/** Boxes as an SVG in the image's own pixels; `owner` marks those of one answer, for `light`. */
function overlay(image, groups) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  // halos first and dashes last, so that a true box is seen through the gaps of an answer that lies on it
  for (const isHalo of [true, false]) {
    for (const { look, boxes, owner } of groups) {
      for (const [x1, y1, x2, y2] of boxes) {
        const name = isHalo ? "halo" : look;
        const box = document.createElementNS(SVG, "rect");
        const place = { class: name, x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
        for (const [key, value] of Object.entries(place)) box.setAttribute(key, value);
        if (owner !== undefined) box.dataset.owner = owner;
        svg.append(box);
      }
    }
  }
  return svg;
}

/** The row's images; boxes are drawn on the one that a box answer is about. */
function images(row, groups) {
  const shown = groups.filter((group) => group.boxes.length);
  const list = make("div", { class: "images" });
  row.images.forEach((key, place) => {
    const image = data.images[key];
    if (!image.source) {
      list.append(make("div", { class: "missing" }, image.fault));
      return;
    }
    const told = `Image ${place + 1} of ${row.images.length}`;
    const frame = make("div", { class: "image" }, make("img", { src: image.source, alt: told, title: `${told}, ${image.width} × ${image.height}`, loading: "lazy" }));
    frame.style.maxWidth = `${Math.round(Math.min(row.images.length > 1 ? 120 : 250, (TALLEST * image.width) / image.height))}px`;
    if (place === row.boxed_image && shown.length) frame.append(overlay(image, shown));
    list.append(frame);
  });
  if (shown.length && row.images.length) {
    const keys = new Map(shown.map((group) => [group.label, group.look]));
    list.append(make("ul", { class: "keys" }, [...keys].map(([label, look]) => make("li", { class: look }, `▭ ${label}`))));
  }
  return list;
}

function question(row) {
  return [
    make("p", { class: "problem", dir: "auto" }, row.problem),
    row.solution !== null && make("p", { class: "solution" }, make("span", { class: "quiet" }, "Solution "), make("b", { dir: "auto" }, plain(row.solution))),
  ];
}

function card(row, head, groups, answers) {
  const body = make("div", {}, question(row), make("div", { class: "versus" }, answers));
  const link = make("a", { class: "where", href: `#${row.anchor}`, title: `Link to ${row.id}` }, lastParts(row.id) || "link");
  return make("li", { id: row.anchor, class: row.images.length ? "card answer-card" : "card answer-card wordy" },
    make("div", { class: "card-head" }, head.filter(Boolean).map((part) => make("span", { class: "chip" }, part)), link),
    row.images.length ? images(row, groups) : null, body);
}

function rowCard(row) {
  if (alone) return card(row, [row.task, row.modality], [
    { look: "box-true", label: "true", boxes: row.boxes },
    { look: "box-after", label: data.names[0], boxes: row.after.boxes },
  ], [answerBlock("", row.after, false)]);
  const gain = score(row.before) !== null && score(row.after) !== null ? row.after.score - row.before.score : null;
  const boxes = (answer) => (answer ? answer.boxes : []);
  const groups = [
    { look: "box-true", label: "true", boxes: row.boxes },
    { look: "box-before", label: data.names[0], boxes: boxes(row.before) },
    { look: "box-after", label: data.names[1], boxes: boxes(row.after) },
  ];
  const answers = [answerBlock(data.names[0], row.before, gain < 0), answerBlock(data.names[1], row.after, gain > 0)];
  const change = gain === null ? null : make("b", { class: mood(gain) }, signed(gain));
  return card(row, [row.task, row.modality, change], groups, answers);
}

function groupCard({ row, answers }) {
  const ranked = [...answers].sort((a, b) => (score(b) ?? -Infinity) - (score(a) ?? -Infinity));
  const groups = [
    { look: "box-true", label: "true", boxes: row.boxes },
    ...ranked.map((answer, owner) => ({ look: "box-answer", label: "answers", boxes: answer.boxes, owner })),
  ];
  const top = score(ranked[0]);
  const head = [`step ${row.step}`, row.phase === "train" ? null : row.phase, row.task, row.modality];
  const blocks = ranked.map((answer) => answerBlock("", answer, score(answer) !== null && score(answer) === top));
  return light(card(row, head, groups, blocks), blocks);
}

/** While an answer is pointed at or focused, only its own boxes stay bright. */
function light(item, blocks) {
  const boxes = [...item.querySelectorAll("[data-owner]")];
  const show = (owner) => boxes.forEach((box) => box.classList.toggle("dim", owner !== null && box.dataset.owner !== String(owner)));
  if (boxes.length) {
    blocks.forEach((block, owner) => {
      for (const name of ["mouseenter", "focusin"]) block.addEventListener(name, () => show(owner));
      for (const name of ["mouseleave", "focusout"]) block.addEventListener(name, () => show(null));
    });
  }
  return item;
}

// --- filters ---

const choice = (name, label, options) => make("label", {}, label,
  make("select", { name }, options.map(([value, text]) => make("option", { value }, text))));
const anyOf = (name, label, values) => (values.length > 1 ? choice(name, label, [["", "all"], ...values.map((value) => [value, value])]) : null);
const between = (name, label, step) => make("label", {}, label, make("span", { class: "pair" },
  make("input", { type: "number", name: `${name}From`, step, placeholder: "from", "aria-label": `${label} from` }), "–",
  make("input", { type: "number", name: `${name}To`, step, placeholder: "to", "aria-label": `${label} to` })));
const search = () => make("label", {}, "Text contains", make("input", { type: "search", name: "text" }));

const within = (value, from, to) => (from === "" || (value !== null && value >= Number(from))) && (to === "" || (value !== null && value <= Number(to)));
const measured = (answer, measure) => (measure === "score" ? answer.score : answer.rewards[measure] ?? null);
const matches = (row, wanted) => (!wanted.task || row.task === wanted.task) && (!wanted.modality || row.modality === wanted.modality) && (!wanted.phase || row.phase === wanted.phase);
const contains = (text, ...parts) => text === "" || parts.some((part) => part && part.toLowerCase().includes(text.toLowerCase()));

function filterRows(rows, wanted) {
  const gain = (row) => (score(row.after) ?? 0) - (score(row.before) ?? 0);
  const moods = { up: (row) => gain(row) > 1e-9, down: (row) => gain(row) < -1e-9, same: (row) => Math.abs(gain(row)) <= 1e-9 };
  const found = rows.filter((row) => matches(row, wanted)
    && (!wanted.change || moods[wanted.change](row))
    && within(measured(row.after || row.before, wanted.measure || "score"), wanted.scoreFrom, wanted.scoreTo)
    && contains(wanted.text, row.problem, row.id, row.before && row.before.text, row.after && row.after.text));
  const orders = { gain: (a, b) => gain(b) - gain(a), loss: (a, b) => gain(a) - gain(b), worst: (a, b) => (score(a.after) ?? 0) - (score(b.after) ?? 0) };
  return wanted.order in orders ? found.sort(orders[wanted.order]) : found;
}

function filterGroups(rows, wanted) {
  const found = [];
  for (const row of rows) {
    if (!matches(row, wanted) || !within(row.step, wanted.stepFrom, wanted.stepTo)) continue;
    const answers = row.answers.filter((answer) => within(measured(answer, wanted.measure || "score"), wanted.scoreFrom, wanted.scoreTo)
      && contains(wanted.text, row.problem, row.id, answer.text));
    if (answers.length) found.push({ row, answers });
  }
  return wanted.order === "last" ? found.reverse() : found;
}

const rewardNames = unique(data.rows.flatMap((row) => [row.before, row.after]).concat(data.groups.flatMap((group) => group.answers))
  .flatMap((answer) => (answer ? Object.keys(answer.rewards) : [])));
const measureChoice = () => choice("measure", "Reward", [["score", "score"], ...rewardNames.map((name) => [name, name])]);

/** Fill a section: its form of filters, and cards that follow them, a page at a time. */
function wire(id, rows, fields, filter, draw, describe) {
  const section = document.getElementById(id);
  if (!section || !rows.length) return;
  section.hidden = false;
  const [form, count, cards, more] = [".filters", ".count", ".cards", ".more"].map((name) => section.querySelector(name));
  form.append(...fields.filter(Boolean), make("button", { type: "reset" }, "Clear"));
  let found = [];
  let shown = 0;
  const extend = () => {
    cards.append(...found.slice(shown, shown + PAGE).map(draw));
    shown = Math.min(found.length, shown + PAGE);
    more.hidden = shown >= found.length;
    count.textContent = describe(found, shown);
  };
  const refresh = () => {
    found = filter(rows, Object.fromEntries(new FormData(form)));
    shown = 0;
    cards.replaceChildren();
    extend();
  };
  /** Draw cards up to the one of a link, without filters if they hide it; whether it is in this section. */
  const reveal = (anchor) => {
    const named = (row) => (row.row || row).anchor === anchor;
    if (!rows.some(named)) return false;
    if (!found.some(named)) {
      for (const field of form.querySelectorAll("select")) field.selectedIndex = 0;
      for (const field of form.querySelectorAll("input")) field.value = "";
      refresh();
    }
    while (shown <= found.findIndex(named)) extend();
    return true;
  };
  form.addEventListener("input", refresh);
  form.addEventListener("reset", () => setTimeout(refresh));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", extend);
  refresh();
  return reveal;
}

const reveals = [];
reveals.push(wire("rows", data.rows, [
  anyOf("task", "Task", unique(data.rows.map((row) => row.task))),
  anyOf("modality", "Modality", unique(data.rows.map((row) => row.modality))),
  !alone && choice("change", "Change", [["", "all"], ["up", "went up"], ["down", "went down"], ["same", "unchanged"]]),
  measureChoice(), between("score", alone ? "Value" : `Value ${data.names[1]}`, "0.05"), search(),
  choice("order", "Order", [["", "as in the data"], ...(alone ? [] : [["gain", "largest gain first"], ["loss", "largest loss first"]]), ["worst", "lowest score first"]]),
], filterRows, rowCard, (found, shown) => `${shown} of ${found.length} matching rows shown`));

reveals.push(wire("training", data.groups, [
  anyOf("task", "Task", unique(data.groups.map((row) => row.task))),
  anyOf("modality", "Modality", unique(data.groups.map((row) => row.modality))),
  anyOf("phase", "Phase", unique(data.groups.map((row) => row.phase))),
  between("step", "Step", "1"), measureChoice(), between("score", "Value", "0.05"), search(),
  choice("order", "Order", [["", "first step first"], ["last", "last step first"]]),
], filterGroups, groupCard, (found, shown) => `${shown} of ${found.length} matching prompts shown, ${found.reduce((sum, group) => sum + group.answers.length, 0)} completions match`));

/** Bring the sample that the address names into sight. */
function follow() {
  const anchor = decodeURIComponent(location.hash.slice(1));
  if (!anchor || !reveals.some((reveal) => reveal && reveal(anchor))) return;
  const target = document.getElementById(anchor);
  document.querySelectorAll(".linked").forEach((card) => card.classList.remove("linked"));
  target.classList.add("linked");
  target.scrollIntoView();
}
addEventListener("hashchange", follow);
follow();

// --- curves ---

const svgNode = (name, attributes) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

/** Tell the values of a curve at the step that is pointed at, or walked to with the arrow keys. */
function readable(svg, curve) {
  const [left, top, width, height] = data.frame;
  const [first, last, low, high] = curve.ends;
  const x = (step) => left + ((step - first) / (last - first)) * width;
  const y = (value) => top + ((high - Math.min(Math.max(value, low), high)) / (high - low)) * height;
  const short = (value) => (curve.percent ? `${Number((100 * value).toPrecision(3))}%` : String(Number(value.toPrecision(3))));
  const steps = [...new Set(curve.series.flatMap((one) => one.points.map(([step]) => step)))].sort((a, b) => a - b);
  const mark = svgNode("g", { class: "mark" });
  const said = make("div", { class: "said-value", role: "status", hidden: true });
  svg.append(mark);
  svg.after(said);
  let at = null;
  const hide = () => {
    at = null;
    said.hidden = true;
    mark.replaceChildren();
  };
  const show = (place) => {
    at = Math.min(Math.max(place, 0), steps.length - 1);
    const step = steps[at];
    mark.replaceChildren(svgNode("line", { x1: x(step), x2: x(step), y1: top, y2: top + height }));
    const lines = [];
    curve.series.forEach((one, number) => {
      const index = one.points.findIndex(([other]) => other === step);
      if (index < 0) return;
      const value = one.points[index][1];
      mark.append(svgNode("circle", { class: `line-${number % 8}`, cx: x(step), cy: y(value), r: 3 }));
      const band = one.low && one.high ? ` (${short(one.low[index])} to ${short(one.high[index])})` : "";
      lines.push(`${curve.series.length > 1 ? `${one.label} ` : ""}${short(value)}${band}`);
    });
    said.replaceChildren(make("b", {}, `step ${step}`), ...lines.map((line) => make("span", {}, line)));
    said.hidden = false;
    const box = svg.getBoundingClientRect();
    const edge = Math.max(0, svg.parentElement.clientWidth - said.offsetWidth - 6);
    const beside = box.left - svg.parentElement.getBoundingClientRect().left + (x(step) / svg.viewBox.baseVal.width) * box.width;
    said.style.left = `${Math.min(edge, beside + 10)}px`;
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const step = first + (((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width - left) / width * (last - first);
    let nearest = 0;
    steps.forEach((other, place) => { if (Math.abs(other - step) < Math.abs(steps[nearest] - step)) nearest = place; });
    show(nearest);
  };
  for (const name of ["pointermove", "pointerdown"]) svg.addEventListener(name, point);
  for (const name of ["pointerleave", "blur"]) svg.addEventListener(name, hide);
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: (at ?? steps.length) - 1, ArrowRight: (at ?? -1) + 1, Home: 0, End: steps.length - 1 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
}

document.querySelectorAll("#curves svg.curve").forEach((svg, number) => readable(svg, data.curves[number]));

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});
