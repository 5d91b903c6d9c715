"use strict";
// The side-by-side browser. Texts of models are set as textContent only: markup in them is shown, never parsed.
const rows = JSON.parse(document.getElementById("rows").textContent);
const labels = JSON.parse(document.getElementById("labels").textContent);
const at = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
};
const of = (row, system) => row.systems[system] || {};
const tests = {
  all: () => true,
  strict: (row) => of(row, "tuned").strict === false,
  facts: (row) => (of(row, "tuned").failed || []).length > 0,
  stop: (row) => of(row, "tuned").stopped === false,
  below: (row) => of(row, "tuned").score !== null && of(row, "tuned").score < of(row, "base").score,
  unscored: (row) => ["golden", "tuned", "base"].some((s) => of(row, s).outcome && of(row, s).outcome !== "ok"),
};
let shown = rows;
let place = 0;

const marks = (text) => {
  const line = make("p");
  const add = (name, words) => line.append(make("span", "mark " + name, words));
  if (text.outcome && text.outcome !== "ok") add("bad", "not judged: " + text.outcome);
  if (typeof text.score === "number") add("", "score " + text.score.toFixed(2));
  if (text.strict !== null) add(text.strict ? "good" : "bad", text.strict ? "passes strict" : "fails strict");
  if (text.stopped === false) add("bad", "cut off");
  const hits = text.found || [];
  for (const hit of hits) add("bad", hit);
  for (const rule of text.failed) if (!hits.some((hit) => hit.startsWith(rule + ":"))) add("bad", rule);
  return line;
};

const card = (system, text) => {
  const node = make("article", "card " + system);
  node.append(make("h3", "", system), marks(text), make("pre", "", text.text));
  const dims = Object.entries(text.dims);
  const top = dims.filter(([, [score]]) => score === 5).map(([name]) => name);
  const list = make("ul");
  for (const [name, [score, quote, reason]] of dims) {
    if (score === 5) continue; // full marks need no reason
    list.append(make("li", "", [name + ": " + score, reason, quote ? "“" + quote + "”" : ""].filter(Boolean).join(" — ")));
  }
  if (top.length) list.append(make("li", "", "5: " + top.join(", ")));
  if (list.children.length) node.append(list);
  return node;
};

const draw = () => {
  const row = shown[place];
  at("count").textContent = shown.length ? `${place + 1} of ${shown.length}` : "none of this kind";
  at("record").replaceChildren();
  if (!row) return;
  const title = make("h3", "", row.id + "  ");
  title.append(make("span", "mark", labels[row.type] || row.type));
  const cards = make("div", "cards");
  for (const system of ["golden", "tuned", "base"]) {
    if (row.systems[system]) cards.append(card(system, row.systems[system]));
  }
  at("record").append(title, make("pre", "prompt", row.prompt), cards);
};

const choose = () => {
  const kind = at("kind").value;
  shown = rows.filter((row) => (!kind || row.type === kind) && tests[at("which").value](row));
  place = 0;
  draw();
};
const move = (step) => {
  place = Math.min(Math.max(place + step, 0), Math.max(shown.length - 1, 0));
  draw();
};
at("kind").addEventListener("change", choose);
at("which").addEventListener("change", choose);
at("next").addEventListener("click", () => move(1));
at("previous").addEventListener("click", () => move(-1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  if (event.key === "j") move(1);
  if (event.key === "k") move(-1);
});
// report#p001/paid_ad/0 opens at that record, and so does a link to it on this page.
const open = () => {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const found = rows.findIndex((row) => row.id === wanted);
  if (found < 0) return;
  shown = rows;
  place = found;
  draw();
  at("record").scrollIntoView();
};
window.addEventListener("hashchange", open);
draw();
open();
