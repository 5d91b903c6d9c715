"use strict";
// The blind sheet: from a file, or from its own server. Texts of models are set as textContent only: markup in them is
// shown, never parsed. Votes live in localStorage, per sheet and rater; a server, where there is one, gets each line.
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const words = JSON.parse(document.getElementById("words").textContent);
const served = location.protocol === "http:";
const single = sheet.kind === "label";
const sides = ["left", "right"];
const reasons = ["facts", "form", "language", "voice"];
const known = new Map(sheet.entries.map((entry) => [entry.id, entry]));
const choices = [...(single ? ["1", "2", "3", "4", "5"] : ["left", "right", "tie"]), "skip"];
const named = /^[\p{L}\p{N}_]([\p{L}\p{N}_ .-]{0,38}[\p{L}\p{N}_])?$/u;
const app = document.getElementById("app");

let rater = "";
let votes = new Map(); // id -> vote, in the order of voting
let unsent = [];
let picked = new Set();
let since = 0;
let sending = false;
let note = "";
let kept = true;

// Storage may be switched off; then the page still works, and says that it keeps nothing.
const memory = new Map();
const store = {
  get: (key) => {
    try { return localStorage.getItem(key); } catch { return memory.get(key) ?? null; }
  },
  set: (key, value) => {
    memory.set(key, value);
    try { localStorage.setItem(key, value); } catch { kept = false; }
  },
  keys: () => {
    try { return Object.keys(localStorage); } catch { return [...memory.keys()]; }
  },
};
const prefix = `anneal/${sheet.sheet.slice(0, 16)}/`;
const parsed = (text, otherwise) => {
  try { return JSON.parse(text) ?? otherwise; } catch { return otherwise; }
};
const held = (name) => parsed(store.get(prefix + name), { votes: [], unsent: [] });
const save = () => store.set(prefix + rater, JSON.stringify({ votes: [...votes.values()], unsent }));
const raters = () => store.keys().filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length)).sort();

let tongue = store.get("anneal/language") || ((navigator.language || "").startsWith("zh") ? "zh" : "en");
const say = (key, values = {}) =>
  (words[tongue][single && words[tongue][key + "_label"] ? key + "_label" : key]).replace(/\{(\w+)\}/g, (_, name) => values[name]);

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") node.addEventListener("click", value);
    else if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children); // strings become text nodes
  return node;
};
const button = (text, click, attributes = {}) => make("button", { type: "button", click, ...attributes }, ...[text].flat());
const key = (name) => make("kbd", { "aria-hidden": "true" }, name);

// ---- votes
const valid = (vote) =>
  vote && vote.sheet === sheet.sheet && known.has(vote.id) && typeof vote.rater === "string" && named.test(vote.rater) &&
  [...choices, "undo"].includes(vote.choice) && Array.isArray(vote.reasons) && vote.reasons.every((r) => reasons.includes(r)) &&
  Number.isInteger(vote.ms) && vote.ms >= 0 && vote.ms <= 86400000;
const next = () => sheet.entries.find((entry) => !votes.has(entry.id));
const line = (id, choice, why, ms) => ({ sheet: sheet.sheet, rater, id, choice, reasons: why, ms });
const apply = (all, vote) => {
  all.delete(vote.id);
  if (vote.choice !== "undo") all.set(vote.id, vote);
};
const put = (...lines) => {
  for (const vote of lines) apply(votes, vote);
  if (served) unsent.push(...lines);
  save();
  send();
};
const last = () => [...votes.values()].at(-1);

const cast = (choice) => {
  const entry = rater && next();
  if (!entry || !choices.includes(choice)) return;
  const ms = Math.min(Math.round(performance.now() - since), 86400000);
  put(line(entry.id, choice, choice === "skip" ? [] : [...picked].sort(), ms));
  note = "";
  show();
};
const undo = () => {
  const vote = rater && last();
  if (!vote) return;
  put({ ...vote, choice: "undo", reasons: [], ms: 0 });
  note = "";
  show(vote.reasons);
};
const lookAgain = () => {
  put(...[...votes.values()].filter((vote) => vote.choice === "skip").map((vote) => ({ ...vote, choice: "undo" })));
  show();
};

// A line that the server has not confirmed is sent again; the same line twice counts once.
const send = async () => {
  if (!served || !rater || sending || !unsent.length) return;
  sending = true;
  const who = rater;
  const batch = unsent.slice(0, 500);
  try {
    const body = batch.map((vote) => JSON.stringify(vote) + "\n").join("");
    const answer = await fetch("votes", { method: "POST", body, headers: { "Content-Type": "application/x-ndjson" } });
    if (!answer.ok) throw new Error(await answer.text());
    if (who === rater) {
      unsent = unsent.slice(batch.length);
      save();
    }
    sending = false;
    tell();
    if (unsent.length) send();
  } catch {
    sending = false;
    tell();
    setTimeout(send, 3000);
  }
};
const fetched = async (name) => {
  if (!served) return [];
  try {
    const answer = await fetch("votes?rater=" + encodeURIComponent(name));
    return answer.ok ? (await answer.text()).split("\n").filter(Boolean).map((text) => parsed(text)).filter(valid) : [];
  } catch {
    return [];
  }
};

const enter = async (name) => {
  const here = held(name);
  const there = new Map((await fetched(name)).map((vote) => [vote.id, vote]));
  rater = name;
  unsent = here.unsent.filter(valid);
  votes = there;
  // What only this browser knows (its server was not there, or lost the file) is kept and sent.
  for (const vote of here.votes.filter(valid)) {
    if (votes.has(vote.id)) continue;
    votes.set(vote.id, vote);
    if (served && !unsent.some((other) => other.id === vote.id)) unsent.push(vote);
  }
  for (const vote of unsent) apply(votes, vote);
  save();
  send();
  show();
};

// ---- files
const download = () => {
  const text = [...votes.values()].map((vote) => JSON.stringify(vote) + "\n").join("");
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  make("a", { href: url, download: `${rater}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
const bring = async (file) => {
  let count = 0, passed = 0;
  const others = new Map();
  for (const text of (await file.text()).split("\n").filter((found) => found.trim())) {
    const vote = parsed(text);
    // What was voted here stays: an old file takes nothing back.
    if (!valid(vote) || vote.choice === "undo" || (vote.rater === rater && votes.has(vote.id))) { passed += 1; continue; }
    if (vote.rater === rater) { put(vote); count += 1; continue; }
    if (!others.has(vote.rater)) others.set(vote.rater, held(vote.rater));
    const state = others.get(vote.rater);
    if (state.votes.some((other) => other.id === vote.id)) { passed += 1; continue; }
    state.votes.push(vote);
    count += 1;
  }
  for (const [name, state] of others) store.set(prefix + name, JSON.stringify(state));
  note = say("imported", { kept: count, passed });
  show();
};
const upload = () => {
  const input = make("input", { type: "file", accept: ".jsonl,application/x-ndjson" });
  input.addEventListener("change", () => input.files[0] && bring(input.files[0]));
  input.click();
};

// ---- what is shown
const switchTongue = () => {
  tongue = tongue === "zh" ? "en" : "zh";
  store.set("anneal/language", tongue);
  if (rater) show([...picked], since);
  else welcome();
};
const help = () => {
  const open = document.querySelector("dialog");
  if (open) return open.close();
  const list = make("dl");
  for (const [name, meaning] of words[tongue][single ? "keys_label" : "keys"]) {
    list.append(make("dt", {}, ...name.split(" ").map(key)), make("dd", {}, meaning));
  }
  const box = make("dialog", { "aria-label": say("help") }, list, button(say("close"), () => box.close()));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
};
const tell = () => {
  const status = document.querySelector(".status");
  const waiting = unsent.length && !sending ? say("unsent", { k: unsent.length }) : "";
  if (status) status.textContent = [kept ? "" : say("not_kept"), waiting, note].filter(Boolean).join(" ");
};
const bar = () => {
  const done = votes.size, n = sheet.entries.length;
  const tools = make("nav", {},
    button(say("undo"), undo, { id: "undo" }), button(say("skip"), () => cast("skip"), { id: "skip" }),
    button(say("help"), help, { id: "help" }), button(say("export"), download, { id: "export" }),
    button(say("import"), upload, { id: "import" }), button(say("leave"), leave, { id: "leave" }),
    button(say("other"), switchTongue, { id: "tongue", lang: tongue === "zh" ? "en" : "zh" }));
  const count = make("span", { class: "count", role: "status", id: "count" }, say("count", { done, n }));
  return make("header", { class: "top" }, make("progress", { value: done, max: n, "aria-hidden": "true" }), count,
    make("span", { id: "rater" }, rater), tools);
};
const body = (text) => (text ? make("pre", {}, text) : make("p", { class: "empty" }, say("empty")));

const chips = () => {
  const row = make("div", { class: "chips" }, make("span", { class: "reasons" }, say("reasons")));
  reasons.forEach((name, i) => {
    const chip = button([key(String(i + 1)), say(name)], () => toggle(name), { id: `why-${name}`, "aria-pressed": picked.has(name) });
    row.append(chip);
  });
  return row;
};
const toggle = (name) => {
  if (!picked.delete(name)) picked.add(name);
  const chip = document.getElementById(`why-${name}`);
  if (chip) chip.setAttribute("aria-pressed", picked.has(name));
};
const pairBallot = () => [chips(), make("div", { class: "votes" },
  button([key("←"), say("left")], () => cast("left"), { id: "left" }),
  button([key("↓"), say("tie")], () => cast("tie"), { id: "tie" }),
  button([say("right"), key("→")], () => cast("right"), { id: "right" }))];
const levelBallot = (entry) => [make("h2", { class: "dim" }, entry.dim.replaceAll("_", " ")),
  make("div", { class: "levels" }, ...entry.levels.map((text, i) =>
    button([key(String(i + 1)), text], () => cast(String(i + 1)), { id: `score${i + 1}` })))];

const show = (why = [], started) => {
  document.documentElement.lang = tongue === "zh" ? "zh-CN" : "en";
  const entry = next();
  if (!entry) return finish();
  const { prompt, texts } = sheet.shown[entry.show];
  // A prompt that the rater has folded stays folded.
  const folded = document.querySelector("details") && !document.querySelector("details").open;
  picked = new Set(why);
  const cards = texts.map((text, i) =>
    make("article", { class: "text" }, make("h2", {}, say(single ? "text" : "side_" + sides[i])), body(text)));
  const task = make("details", folded ? {} : { open: "" }, make("summary", {}, say("task")), make("pre", { tabindex: "0" }, prompt));
  // One text leaves room for the task beside it.
  const both = single ? [make("section", { class: "texts" }, task, ...cards)] : [task, make("section", { class: "texts" }, ...cards)];
  app.replaceChildren(bar(), make("h1", {}, sheet.question || say("question")), ...both, make("div", { class: "space" }),
    make("section", { class: "ballot" }, ...(single ? levelBallot(entry) : pairBallot()), make("p", { class: "status", role: "status" })));
  if (started === undefined) window.scrollTo(0, 0);
  since = started === undefined ? performance.now() : started;
  tell();
};
const finish = () => {
  const skipped = [...votes.values()].filter((vote) => vote.choice === "skip").length;
  app.replaceChildren(bar(), make("h1", { id: "done" }, say("done")),
    make("p", {}, say(served ? "done_served" : "done_file", { file: `${rater}.jsonl` })),
    make("div", { class: "known" }, button(say("export"), download, { class: "main" }),
      ...(skipped ? [button(say("again", { k: skipped }), lookAgain, { id: "again" })] : [])),
    make("p", { class: "status", role: "status" }));
  tell();
};
const leave = () => {
  rater = "";
  votes = new Map();
  unsent = []; // kept under the name, and sent when it comes back
  note = "";
  welcome();
};
const welcome = () => {
  document.documentElement.lang = tongue === "zh" ? "zh-CN" : "en";
  document.title = sheet.question || say("title");
  const n = sheet.entries.length;
  const input = make("input", { type: "text", id: "name", maxlength: "40", autocomplete: "off", spellcheck: "false" });
  const wrong = make("p", { class: "bad", role: "alert" });
  const form = make("form", {}, make("label", { for: "name" }, say("name")), input, make("button", { class: "main", id: "start" }, say("start")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim().normalize("NFC");
    if (named.test(name)) enter(name);
    else wrong.textContent = say("name_bad");
  });
  const again = raters().map((name) =>
    button(say("go_on", { name, done: new Set(held(name).votes.map((vote) => vote.id)).size, n }), () => enter(name)));
  app.replaceChildren(
    make("header", { class: "top" }, button(say("other"), switchTongue, { id: "tongue", lang: tongue === "zh" ? "en" : "zh" })),
    make("h1", {}, sheet.question || say("title")), make("p", {}, say("intro", { n })),
    make("p", { class: "soft" }, say(served ? "kept_served" : "kept_file")), form,
    make("p", { class: "soft" }, say("name_hint")), wrong, make("div", { class: "known" }, ...again));
  input.focus();
};

document.addEventListener("keydown", (event) => {
  // A held key is one vote, not ten.
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing || !rater) return;
  if (event.target.tagName === "INPUT") return;
  if (event.key === "?") return help();
  if (document.querySelector("dialog")) return;
  const arrow = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
  if (arrow && !single) {
    event.preventDefault();
    cast(arrow);
  } else if (/^[1-5]$/.test(event.key)) {
    if (single) cast(event.key);
    else if (next() && reasons[event.key - 1]) toggle(reasons[event.key - 1]);
  } else if (event.key === "z") undo();
  else if (event.key === "s") cast("skip");
});
welcome();
