"use strict";
// The page of the blind ballot, opened as a file or served by anneal/human/vote_server.py. Texts of models become text
// nodes only, so that markup in them is shown and never parsed. Votes are stored in localStorage, by ballot and rater;
// where there is a server, each vote is sent to it as well.
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const words = JSON.parse(document.getElementById("words").textContent);
const served = location.protocol === "http:";
const single = sheet.kind === "label";
const sides = ["left", "right"];
const reasons = ["facts", "form", "language", "voice"];
const known = new Map(sheet.entries.map((entry) => [entry.id, entry]));
const choices = [...(single ? ["1", "2", "3", "4", "5"] : ["left", "right", "tie"]), "skip"];
const namePattern = /^[\p{L}\p{N}_]([\p{L}\p{N}_ .-]{0,38}[\p{L}\p{N}_])?$/u;
const app = document.getElementById("app");
// The limits of anneal/human/vote_records.py and vote_server.py: a longer time or a larger request is refused.
const DAY_MS = 86400000;
const BATCH = 500; // votes of one request
const RETRY_MS = 3000;

let rater = "";
let votes = new Map(); // id -> vote, in the order of voting
let unsent = []; // votes that the server has not confirmed
let chosenReasons = new Set();
let shownAt = 0; // milliseconds, by performance.now()
let sending = false;
let note = "";
let storageWorks = true;

// Storage may be disabled or full: the page then works from memory, and its status line warns that nothing is stored.
const fallback = new Map();
const store = {
  get: (key) => {
    try { return localStorage.getItem(key); } catch { return fallback.get(key) ?? null; }
  },
  set: (key, value) => {
    fallback.set(key, value);
    try { localStorage.setItem(key, value); } catch { storageWorks = false; }
  },
  keys: () => {
    try { return Object.keys(localStorage); } catch { return [...memory.keys()]; }
  },
};
const prefix = `anneal/${sheet.sheet.slice(0, 16)}/`;
const parseJson = (text, otherwise) => {
  try { return JSON.parse(text) ?? otherwise; } catch { return otherwise; }
};
const storedState = (name) => parseJson(store.get(prefix + name), { votes: [], unsent: [] });
const save = () => store.set(prefix + rater, JSON.stringify({ votes: [...votes.values()], unsent }));
const raters = () => store.keys().filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length)).sort();

let language = store.get("anneal/language") || ((navigator.language || "").startsWith("zh") ? "zh" : "en");
const translate = (key, values = {}) => {
  const texts = words[language];
  const text = single && texts[key + "_label"] ? texts[key + "_label"] : texts[key];
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
};

const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") node.addEventListener("click", value);
    else if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children); // strings become text nodes
  return node;
};
const button = (text, click, attributes = {}) => element("button", { type: "button", click, ...attributes }, ...[text].flat());
const key = (name) => element("kbd", { "aria-hidden": "true" }, name);

// ---- votes
const valid = (vote) =>
  vote && vote.sheet === sheet.sheet && known.has(vote.id) && typeof vote.rater === "string" && namePattern.test(vote.rater) &&
  [...choices, "undo"].includes(vote.choice) && Array.isArray(vote.reasons) && vote.reasons.every((r) => reasons.includes(r)) &&
  Number.isInteger(vote.ms) && vote.ms >= 0 && vote.ms <= DAY_MS;
const next = () => sheet.entries.find((entry) => !votes.has(entry.id));
const line = (id, choice, why, ms) => ({ sheet: sheet.sheet, rater, id, choice, reasons: why, ms });
const apply = (all, vote) => {
  all.delete(vote.id);
  if (vote.choice !== "undo") all.set(vote.id, vote);
};
const record = (...lines) => {
  for (const vote of lines) apply(votes, vote);
  if (served) unsent.push(...lines);
  save();
  send();
};
const last = () => [...votes.values()].at(-1);

const castVote = (choice) => {
  const entry = rater && next();
  if (!entry || !choices.includes(choice)) return;
  const ms = Math.min(Math.round(performance.now() - shownAt), DAY_MS);
  record(line(entry.id, choice, choice === "skip" ? [] : [...chosenReasons].sort(), ms));
  note = "";
  show();
};
const undo = () => {
  const vote = rater && last();
  if (!vote) return;
  record({ ...vote, choice: "undo", reasons: [], ms: 0 });
  note = "";
  show(vote.reasons);
};
const reopenSkipped = () => {
  record(...[...votes.values()].filter((vote) => vote.choice === "skip").map((vote) => ({ ...vote, choice: "undo" })));
  show();
};

// A vote that the server has not confirmed is sent again; the same vote twice counts once.
const send = async () => {
  if (!served || !rater || sending || !unsent.length) return;
  sending = true;
  const who = rater;
  const batch = unsent.slice(0, BATCH);
  try {
    const body = batch.map((vote) => JSON.stringify(vote) + "\n").join("");
    const answer = await fetch("votes", { method: "POST", body, headers: { "Content-Type": "application/x-ndjson" } });
    if (!answer.ok) throw new Error(await answer.text());
    if (who === rater) {
      unsent = unsent.slice(batch.length);
      save();
    }
    sending = false;
    showStatus();
    if (unsent.length) send();
  } catch {
    sending = false;
    showStatus();
    setTimeout(send, RETRY_MS);
  }
};
const fetchVotes = async (name) => {
  if (!served) return [];
  try {
    const answer = await fetch("votes?rater=" + encodeURIComponent(name));
    return answer.ok ? (await answer.text()).split("\n").filter(Boolean).map((text) => parseJson(text)).filter(valid) : [];
  } catch {
    return [];
  }
};

const startAs = async (name) => {
  const here = storedState(name);
  const there = new Map((await fetchVotes(name)).map((vote) => [vote.id, vote]));
  rater = name;
  unsent = here.unsent.filter(valid);
  votes = there;
  // Votes that the server does not have (it was unreachable, or lost its file) are kept and sent.
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
const exportFile = () => {
  const text = [...votes.values()].map((vote) => JSON.stringify(vote) + "\n").join("");
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  element("a", { href: url, download: `${rater}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
const importFile = async (file) => {
  let count = 0, passed = 0;
  const others = new Map();
  for (const text of (await file.text()).split("\n").filter((found) => found.trim())) {
    const vote = parseJson(text);
    // Votes of this browser take precedence, and an imported `undo` is ignored: an old file must not withdraw a vote.
    if (!valid(vote) || vote.choice === "undo" || (vote.rater === rater && votes.has(vote.id))) { passed += 1; continue; }
    if (vote.rater === rater) { record(vote); count += 1; continue; }
    if (!others.has(vote.rater)) others.set(vote.rater, storedState(vote.rater));
    const state = others.get(vote.rater);
    if (state.votes.some((other) => other.id === vote.id)) { passed += 1; continue; }
    state.votes.push(vote);
    count += 1;
  }
  for (const [name, state] of others) store.set(prefix + name, JSON.stringify(state));
  note = translate("imported", { kept: count, passed });
  show();
};
const chooseImport = () => {
  const input = element("input", { type: "file", accept: ".jsonl,application/x-ndjson" });
  input.addEventListener("change", () => input.files[0] && importFile(input.files[0]));
  input.click();
};

// ---- views
const switchLanguage = () => {
  language = language === "zh" ? "en" : "zh";
  store.set("anneal/language", language);
  if (rater) show([...chosenReasons], shownAt);
  else welcome();
};
const help = () => {
  const open = document.querySelector("dialog");
  if (open) return open.close();
  const list = element("dl");
  for (const [name, meaning] of words[language][single ? "keys_label" : "keys"]) {
    list.append(element("dt", {}, ...name.split(" ").map(key)), element("dd", {}, meaning));
  }
  const box = element("dialog", { "aria-label": translate("help") }, list, button(translate("close"), () => box.close()));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
};
const showStatus = () => {
  const status = document.querySelector(".status");
  const waiting = unsent.length && !sending ? translate("unsent", { k: unsent.length }) : "";
  if (status) status.textContent = [storageWorks ? "" : translate("not_kept"), waiting, note].filter(Boolean).join(" ");
};
const header = () => {
  const done = votes.size, n = sheet.entries.length;
  const tools = element("nav", {},
    button(translate("undo"), undo, { id: "undo" }), button(translate("skip"), () => castVote("skip"), { id: "skip" }),
    button(translate("help"), help, { id: "help" }), button(translate("export"), exportFile, { id: "export" }),
    button(translate("import"), chooseImport, { id: "import" }), button(translate("leave"), leave, { id: "leave" }),
    button(translate("other"), switchLanguage, { id: "tongue", lang: language === "zh" ? "en" : "zh" }));
  const count = element("span", { class: "count", role: "status", id: "count" }, translate("count", { done, n }));
  return element("header", { class: "top" }, element("progress", { value: done, max: n, "aria-hidden": "true" }), count,
    element("span", { id: "rater" }, rater), tools);
};
const body = (text) => (text ? element("pre", {}, text) : element("p", { class: "empty" }, translate("empty")));

const reasonButtons = () => {
  const row = element("div", { class: "chips" }, element("span", { class: "reasons" }, translate("reasons")));
  reasons.forEach((name, i) => {
    const chip = button([key(String(i + 1)), translate(name)], () => toggle(name),
      { id: `why-${name}`, "aria-pressed": chosenReasons.has(name) });
    row.append(chip);
  });
  return row;
};
const toggle = (name) => {
  if (!chosenReasons.delete(name)) chosenReasons.add(name);
  const chip = document.getElementById(`why-${name}`);
  if (chip) chip.setAttribute("aria-pressed", chosenReasons.has(name));
};
const pairBallot = () => [reasonButtons(), element("div", { class: "votes" },
  button([key("←"), translate("left")], () => castVote("left"), { id: "left" }),
  button([key("↓"), translate("tie")], () => castVote("tie"), { id: "tie" }),
  button([translate("right"), key("→")], () => castVote("right"), { id: "right" }))];
const levelBallot = (entry) => [element("h2", { class: "dim" }, entry.dim.replaceAll("_", " ")),
  element("div", { class: "levels" }, ...entry.levels.map((text, i) =>
    button([key(String(i + 1)), text], () => castVote(String(i + 1)), { id: `score${i + 1}` })))];

const show = (why = [], started) => {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  const entry = next();
  if (!entry) return finish();
  const { prompt, texts } = sheet.shown[entry.show];
  // The task stays folded once the rater has folded it.
  const folded = document.querySelector("details") && !document.querySelector("details").open;
  chosenReasons = new Set(why);
  const cards = texts.map((text, i) =>
    element("article", { class: "text" }, element("h2", {}, translate(single ? "text" : "side_" + sides[i])), body(text)));
  const task = element("details", folded ? {} : { open: "" },
    element("summary", {}, translate("task")), element("pre", { tabindex: "0" }, prompt));
  // A single text leaves room for the task in the same row.
  const both = single ? [element("section", { class: "texts" }, task, ...cards)] : [task, element("section", { class: "texts" }, ...cards)];
  app.replaceChildren(header(), element("h1", {}, sheet.question || translate("question")), ...both, element("div", { class: "space" }),
    element("section", { class: "ballot" }, ...(single ? levelBallot(entry) : pairBallot()), element("p", { class: "status", role: "status" })));
  if (started === undefined) window.scrollTo(0, 0);
  shownAt = started === undefined ? performance.now() : started;
  showStatus();
};
const finish = () => {
  const skipped = [...votes.values()].filter((vote) => vote.choice === "skip").length;
  app.replaceChildren(header(), element("h1", { id: "done" }, translate("done")),
    element("p", {}, translate(served ? "done_served" : "done_file", { file: `${rater}.jsonl` })),
    element("div", { class: "known" }, button(translate("export"), exportFile, { class: "main" }),
      ...(skipped ? [button(translate("again", { k: skipped }), reopenSkipped, { id: "again" })] : [])),
    element("p", { class: "status", role: "status" }));
  showStatus();
};
const leave = () => {
  rater = "";
  votes = new Map();
  unsent = []; // stored under the rater's name, and sent when this rater continues
  note = "";
  welcome();
};
const welcome = () => {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = sheet.question || translate("title");
  const n = sheet.entries.length;
  const input = element("input", { type: "text", id: "name", maxlength: "40", autocomplete: "off", spellcheck: "false" });
  const wrong = element("p", { class: "bad", role: "alert" });
  const start = element("button", { class: "main", id: "start" }, translate("start"));
  const form = element("form", {}, element("label", { for: "name" }, translate("name")), input, start);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim().normalize("NFC");
    if (namePattern.test(name)) startAs(name);
    else wrong.textContent = translate("name_bad");
  });
  const again = raters().map((name) =>
    button(translate("go_on", { name, done: new Set(storedState(name).votes.map((vote) => vote.id)).size, n }), () => startAs(name)));
  app.replaceChildren(
    element("header", { class: "top" }, button(translate("other"), switchLanguage, { id: "tongue", lang: language === "zh" ? "en" : "zh" })),
    element("h1", {}, sheet.question || translate("title")), element("p", {}, translate("intro", { n })),
    element("p", { class: "soft" }, translate(served ? "kept_served" : "kept_file")), form,
    element("p", { class: "soft" }, translate("name_hint")), wrong, element("div", { class: "known" }, ...again));
  input.focus();
};

document.addEventListener("keydown", (event) => {
  // A key that is held down repeats: it casts one vote only.
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing || !rater) return;
  if (event.target.tagName === "INPUT") return;
  if (event.key === "?") return help();
  if (document.querySelector("dialog")) return;
  const arrow = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
  if (arrow && !single) {
    event.preventDefault();
    castVote(arrow);
  } else if (/^[1-5]$/.test(event.key)) {
    if (single) castVote(event.key);
    else if (next() && reasons[event.key - 1]) toggle(reasons[event.key - 1]);
  } else if (event.key === "z") undo();
  else if (event.key === "s") castVote("skip");
});
welcome();
