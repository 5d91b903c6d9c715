"use strict";
// The side-by-side browser and the page's second language. Texts of models are set as text nodes only: markup in them
// is shown, never parsed.
const at = (id) => document.getElementById(id);
const given = (id, otherwise) => (at(id) ? JSON.parse(at(id).textContent) : otherwise);
const rows = given("rows", []);
const labels = given("labels", {});
const chinese = given("zh", null);
const systems = ["golden", "aligned", "tuned", "base"];
// What the last training made, and the model that it started from.
const [shipped, before] = rows.some((row) => row.systems.aligned) ? ["aligned", "tuned"] : ["tuned", "base"];
// Whose texts are compared: the golden one with what is shipped, then what preference learning changed.
const twos = [["golden", shipped], ...(before === "tuned" ? [[before, shipped]] : [])];
const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
};
// What models and users wrote is in no language of the page's.
const foreign = (node) => {
  node.setAttribute("translate", "no");
  return node;
};

// ---- languages: English is what is printed; the dictionary turns it, text node by text node, and back.
// What a hole may hold: {n} a number with its interval, {w} one word, {} anything.
const HOLES = { "{n}": /^(?:[\d.,%–−+±-]|e-\d)+(?: \[[^\]A-Za-z]*\])?$/, "{w}": /^\S+$/, "{}": /^/ };
const KEPT = "[translate=no], script, style, pre, code, kbd, textarea, .words tbody, th span[title], rect > title";
// One word in a cell is what the data call something, and stays, but for these.
const named = (node) => node.parentElement.closest("td") && /^[a-z_]+$/.test(node.data.trim()) &&
  !["chosen", "withheld", "reported", "extrapolated", "none", "answers", "rollouts"].includes(node.data.trim());
const MARKS = { ".": "\u3002", ";": "\uff1b", ":": "\uff1a" }; // at the end of a clause, in Chinese
const english = new WeakMap(); // text node -> its English
const patterns = Object.keys(chinese || {})
  .filter((key) => /\{[nw]?\}/.test(key))
  .map((key) => ({ key, holes: key.match(/\{[nw]?\}/g), parts: key.split(/\{[nw]?\}/) }))
  .sort((a, b) => b.parts.join("").length - a.parts.join("").length); // what says more comes first
let tongue = "en";

// What the holes of a pattern hold in a text; null where it is another text. Without a search back, so always quick.
const fit = ({ holes, parts }, text) => {
  const end = text.length - parts.at(-1).length;
  let place = parts[0].length;
  if (!text.startsWith(parts[0]) || !text.endsWith(parts.at(-1))) return null;
  const found = [];
  for (let i = 1; i < parts.length; i += 1) {
    const next = i === parts.length - 1 ? end : text.indexOf(parts[i], place + 1);
    if (next <= place) return null;
    found.push(text.slice(place, next));
    place = next + parts[i].length;
  }
  return found.every((value, i) => HOLES[holes[i]].test(value)) ? found : null;
};
const said = new Map();
// An entry, or a pattern with what its holes hold; null for words that the dictionary does not have.
const entry = (text, depth) => {
  if (Object.hasOwn(chinese, text)) return chinese[text];
  for (const pattern of patterns) {
    const found = fit(pattern, text);
    if (!found) continue;
    let next = 0;
    const values = found.map((value) => (depth < 6 ? say(value, depth + 1) : value));
    return chinese[pattern.key].replace(/\{(\d*)\}/g, (_, i) => values[i ? i - 1 : next++]);
  }
  return null;
};
const look = (text, depth) => {
  const found = entry(text, depth);
  if (found !== null) return found;
  const mark = MARKS[text.at(-1)];
  const rest = mark ? entry(text.slice(0, -1), depth) : null;
  if (rest !== null) return rest + mark;
  // A paragraph is known by its sentences, a sentence by its parts.
  const end = [/(?<=\.) /, /(?<=;) /, /(?<=:) /].find((each) => each.test(text));
  return end ? text.split(end).map((piece) => say(piece, depth + 1)).reduce(glue) : text;
};
// Between Chinese sentences there is no blank.
const glue = (one, two) => (/[\u3000-\u303f\uff00-\uffef]$/.test(one) ? one + two : `${one} ${two}`);
const say = (text, depth = 0) => {
  const core = text.trim();
  if (!/[A-Za-z]/.test(core)) return text;
  if (!said.has(core)) said.set(core, look(core, depth));
  const found = said.get(core);
  return found === core ? text : text.match(/^\s*/)[0] + found + text.match(/\s*$/)[0];
};
const speak = (root) => {
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (!english.has(node)) {
      if (tongue === "en" || !node.data.trim() || node.parentElement.closest(KEPT) || named(node)) continue;
      english.set(node, node.data);
    }
    node.data = tongue === "en" ? english.get(node) : say(english.get(node));
  }
  for (const node of root.querySelectorAll("[aria-label], [placeholder]")) {
    for (const name of ["aria-label", "placeholder"]) {
      if (!node.hasAttribute(name)) continue;
      const kept = `english-${name}`;
      if (!node.hasAttribute(kept)) node.setAttribute(kept, node.getAttribute(name));
      node.setAttribute(name, tongue === "en" ? node.getAttribute(kept) : say(node.getAttribute(kept)));
    }
  }
};
// Storage may be switched off, as some browsers do for files: then the choice lasts as long as the page.
const store = (value) => {
  try {
    if (value) localStorage.setItem("anneal/language", value);
    return localStorage.getItem("anneal/language");
  } catch {
    return null;
  }
};
const turn = (language) => {
  tongue = language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  speak(document.documentElement);
  at("tongue").textContent = language === "zh" ? "English" : chinese.Chinese;
  at("tongue").lang = language === "zh" ? "en" : "zh-CN";
};
if (chinese) {
  const button = foreign(make("button"));
  button.id = "tongue";
  button.type = "button";
  button.addEventListener("click", () => {
    turn(tongue === "zh" ? "en" : "zh");
    store(tongue);
  });
  document.body.prepend(button);
}

// ---- marks in a text: layers of {from, to, tag, name, title} over its UTF-16 units, from the outermost inwards
const paint = (node, text, layers) => {
  const cuts = new Set([0, text.length, ...layers.flatMap(({ from, to }) => [from, to])]);
  const order = [...cuts].sort((a, b) => a - b);
  for (let i = 0; i + 1 < order.length; i += 1) {
    let inner = document.createTextNode(text.slice(order[i], order[i + 1]));
    for (const layer of layers.filter(({ from, to }) => from <= order[i] && order[i] < to).reverse()) {
      const outer = make(layer.tag, layer.name);
      if (layer.title) outer.title = layer.title;
      outer.append(inner);
      inner = outer;
    }
    node.append(inner);
  }
  return node;
};
const places = (text, word) => {
  const found = [];
  for (let from = text.indexOf(word); word && from >= 0; from = text.indexOf(word, from + word.length)) {
    found.push([from, from + word.length]);
  }
  return found;
};
// A hit is "rule:word" or "rule:slot:word"; what is only missing, or a count, stands nowhere in the text.
const hits = (text) => {
  const found = [];
  for (const hit of text.found || []) {
    const rule = hit.slice(0, hit.indexOf(":"));
    const rest = hit.slice(rule.length + 1);
    const words = [rest, rest.replace(/^found /, ""), rest.slice(rest.indexOf(":") + 1)];
    const word = words.find((w) => w && !/^[\d.]+$/.test(w) && text.text.includes(w));
    for (const [from, to] of places(text.text, word)) found.push({ from, to, tag: "mark", name: "hit", title: rule });
  }
  for (const quote of text.quotes || []) {
    for (const [from, to] of places(text.text, quote)) found.push({ from, to, tag: "mark", name: "quoted", title: "judge" });
  }
  return found;
};
const sought = (text) => {
  const low = text.toLowerCase();
  if (low.length !== text.length) return []; // places in it would be others
  return places(low, words()).map(([from, to]) => ({ from, to, tag: "mark", name: "sought", title: "" }));
};

// ---- the difference of two texts: the longest common subsequence of their characters, of lines where that is too much
const CELLS = 4200000; // of the table; two texts of 2,000 characters take some 30 ms
const RUN = 3; // what is shorter and the same between two changes is chance, and hard to read
const common = (a, b) => {
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const down = best[(i + 1) * width + j];
      const right = best[i * width + j + 1];
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(down, right);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return pairs;
};
// [start in a, start in b, length] of what is the same in two lists, in order.
const runs = (a, b) => {
  let head = 0;
  let tail = 0;
  while (head < Math.min(a.length, b.length) && a[head] === b[head]) head += 1;
  while (tail < Math.min(a.length, b.length) - head && a.at(-1 - tail) === b.at(-1 - tail)) tail += 1;
  const middle = [a, b].map((list) => list.slice(head, list.length - tail));
  const pairs = (middle[0].length + 1) * (middle[1].length + 1) > CELLS ? [] : common(...middle);
  const found = head ? [[0, 0, head]] : [];
  for (const [i, j] of pairs) {
    const last = found.at(-1);
    if (last && last[0] + last[2] === i + head && last[1] + last[2] === j + head) last[2] += 1;
    else found.push([i + head, j + head, 1]);
  }
  if (tail) found.push([a.length - tail, b.length - tail, tail]);
  return found;
};
const starts = (list) => {
  const found = [0];
  for (const part of list) found.push(found.at(-1) + part.length);
  return found;
};
// What of the first text is not in the second, and the other way round, as [from, to] in UTF-16 units.
const differ = (one, two) => {
  let lists = [Array.from(one), Array.from(two)]; // code points
  const fine = (lists[0].length + 1) * (lists[1].length + 1) <= CELLS;
  if (!fine) lists = [one, two].map((text) => text.match(/[^\n]*\n|[^\n]+$/g) || []);
  const ends = lists.map((list) => list.length);
  const same = runs(...lists).filter(([i, j, n]) => {
    const edge = i + j === 0 || (i + n === ends[0] && j + n === ends[1]);
    return !fine || edge || n >= RUN;
  });
  return lists.map((list, side) => {
    const at = starts(list);
    const found = [];
    let place = 0;
    for (const run of [...same, [...ends, 0]]) {
      if (run[side] > place) found.push([at[place], at[run[side]]]);
      place = run[side] + run[2];
    }
    return found;
  });
};

// ---- the browser
const of = (row, system) => row.systems[system] || {};
const tests = {
  all: () => true,
  strict: (row) => of(row, shipped).strict === false,
  facts: (row) => (of(row, shipped).failed || []).length > 0,
  stop: (row) => of(row, shipped).stopped === false,
  below: (row) => of(row, shipped).score !== null && of(row, shipped).score < of(row, before).score,
  unscored: (row) => systems.some((s) => of(row, s).outcome && of(row, s).outcome !== "ok"),
};
let shown = rows;
let place = 0;
let compared = -1; // which two of them; -1 is none
const words = () => (at("search") ? at("search").value.trim().toLowerCase() : "");
const whole = new Map(); // row -> all its texts, lower case, made when first searched
const holds = (row) => {
  if (!words()) return true;
  const texts = () => [row.id, row.prompt, ...Object.values(row.systems).map((system) => system.text)];
  if (!whole.has(row)) whole.set(row, texts().join("\n").toLowerCase());
  return whole.get(row).includes(words());
};

const marks = (text) => {
  const line = make("p");
  const add = (name, words) => {
    const node = make("span", "mark " + name, words);
    line.append(node, " ");
    return node;
  };
  if (text.outcome && text.outcome !== "ok") add("bad", "not judged: " + text.outcome);
  if (typeof text.score === "number") add("", "score " + text.score.toFixed(2));
  if (typeof text.strict === "boolean") add(text.strict ? "good" : "bad", text.strict ? "passes strict" : "fails strict");
  if (text.stopped === false) add("bad", "cut off");
  const hits = text.found || [];
  for (const hit of hits) foreign(add("bad", hit));
  for (const rule of text.failed || []) if (!hits.some((hit) => hit.startsWith(rule + ":"))) foreign(add("bad", rule));
  return line;
};

const card = (system, text, changes) => {
  const node = make("article", "card " + system);
  const body = foreign(paint(make("pre"), text.text, [...changes, ...hits(text), ...sought(text.text)]));
  node.append(make("h3", "", system), marks(text), body);
  const dims = Object.entries(text.dims || {});
  const top = dims.filter(([, [score]]) => score === 5).map(([name]) => name);
  const list = foreign(make("ul"));
  for (const [name, [score, quote, reason]] of dims) {
    if (score === 5) continue; // full marks need no reason
    list.append(make("li", "", [name + ": " + score, reason, quote ? "“" + quote + "”" : ""].filter(Boolean).join(" — ")));
  }
  if (top.length) list.append(make("li", "", "5: " + top.join(", ")));
  if (list.children.length) node.append(list);
  return node;
};

const link = (row) => "#" + encodeURIComponent(row.id).replaceAll("%2F", "/");
const draw = () => {
  if (!at("record")) return;
  const row = shown[place];
  at("count").textContent = shown.length ? `${place + 1} of ${shown.length}` : "none of this kind";
  at("record").replaceChildren();
  if (row) {
    const title = make("h3");
    const name = foreign(make("a", "", row.id));
    name.href = link(row);
    title.append(name, " ", foreign(make("span", "mark", labels[row.type] || row.type)));
    const [one, two] = twos[compared] || [];
    const both = row.systems[one] && row.systems[two];
    const [gone, fresh] = both ? differ(row.systems[one].text, row.systems[two].text) : [[], []];
    const layers = {
      [one]: gone.map(([from, to]) => ({ from, to, tag: "del" })),
      [two]: fresh.map(([from, to]) => ({ from, to, tag: "ins" })),
    };
    const cards = make("div", "cards");
    for (const system of systems) {
      if (row.systems[system]) cards.append(card(system, row.systems[system], layers[system] || []));
    }
    at("record").append(title, foreign(paint(make("pre", "prompt"), row.prompt, sought(row.prompt))), cards);
  }
  if (chinese) speak(at("record").parentElement);
};

const choose = () => {
  const kind = at("kind").value;
  const test = tests[at("which").value] || tests.all;
  const row = shown[place];
  shown = rows.filter((row) => (!kind || row.type === kind) && test(row) && holds(row));
  place = Math.max(shown.indexOf(row), 0); // what is looked at stays, where it may
  draw();
};
const move = (step) => {
  place = Math.min(Math.max(place + step, 0), Math.max(shown.length - 1, 0));
  draw();
  // The address names the record that is looked at, so that it can be passed on.
  if (shown[place]) history.replaceState(null, "", link(shown[place]));
};
const compare = () => {
  compared = compared + 1 < twos.length ? compared + 1 : -1;
  at("compare").setAttribute("aria-pressed", compared >= 0);
  at("compare").title = (twos[compared] || twos[0]).join(" : ");
  draw();
};
// report#p001/paid_ad/0 opens at that record, and so does a link to it on this page.
const open = () => {
  let wanted = location.hash.slice(1);
  try {
    wanted = decodeURIComponent(wanted);
  } catch {
    // as it stands: a % that escapes nothing
  }
  const row = rows.find((found) => found.id === wanted);
  if (!row) return;
  if (!shown.includes(row)) {
    for (const name of ["kind", "which", "search"]) at(name).value = name === "which" ? "all" : "";
    shown = rows;
  }
  place = shown.indexOf(row);
  draw();
  at("record").scrollIntoView();
};

if (at("record")) {
  const search = make("input");
  Object.assign(search, { id: "search", type: "search", placeholder: "search prompts and texts" });
  search.setAttribute("aria-label", "search prompts and texts");
  search.addEventListener("input", choose);
  const toggle = make("button", "", "differences ");
  Object.assign(toggle, { id: "compare", type: "button", title: twos[0].join(" : ") });
  toggle.setAttribute("aria-pressed", "false");
  toggle.append(make("kbd", "", "d"));
  toggle.addEventListener("click", compare);
  at("previous").before(search, toggle);
  for (const option of at("kind").options) if (option.value) foreign(option);
  at("kind").addEventListener("change", choose);
  at("which").addEventListener("change", choose);
  at("next").addEventListener("click", () => move(1));
  at("previous").addEventListener("click", () => move(-1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, textarea")) return;
    if (event.key === "j") move(1);
    if (event.key === "k") move(-1);
    if (event.key === "d") compare();
    if (event.key === "/") {
      event.preventDefault();
      search.focus();
    }
  });
  window.addEventListener("hashchange", open);
  draw();
  open();
}
if (chinese) turn(store() || ((navigator.language || "").startsWith("zh") ? "zh" : "en"));
