/* What the page of a conversation does beyond htmx: the reader's place in the log, the draft, the
   end of the thread, ratings, copying, and local times. Works on plain events; no inline code, no eval. */
"use strict";

const byId = (id) => document.getElementById(id);
const thread = byId("thread");

/* --- the place in the log: each frame once, and a reconnect goes on behind the last ------------ */

let seen = null; /* how far this page is */
let told = null; /* how far the line is: a frame that names no place follows the one before */

function place(text) {
  const [fence, number] = text.split(":").map(Number);
  return { fence, number };
}

function isNewer(a, b) {
  return !b || a.fence > b.fence || (a.fence === b.fence && a.number > b.number);
}

function take(event) {
  const { connection, message } = event.detail;
  let frame;
  try { frame = JSON.parse(message.data); } catch { return; }
  if (frame.content === undefined) return;
  told = frame.id ? place(frame.id) : { fence: told.fence, number: told.number + 1 };
  if (!frame.over && !isNewer(told, seen)) { event.preventDefault(); return; }
  seen = told;
  connection.url = connection.url.replace(/last=[^&]*/, `last=${seen.fence}:${seen.number}`);
}

/* --- the line ----------------------------------------------------------------------------------- */

const LINE = {
  lost: ["The line is interrupted.", "It is being restored; nothing is lost."],
  4401: ["You are signed out.", "Your draft is kept here. Sign in again to go on."],
  4404: ["This conversation is not here any more.", "Start a new one from the list."],
};

function say(about) {
  const old = byId("line");
  if (old) old.remove();
  if (!about) return;
  const [headline, rest] = LINE[about] || LINE.lost;
  const notice = document.createElement("div");
  notice.id = "line";
  notice.className = "notice caution";
  notice.setAttribute("role", "alert");
  const text = document.createElement("p"), strong = document.createElement("strong");
  strong.textContent = headline;
  text.append(strong, " ", rest, " ");
  if (about === 4401) {
    const link = document.createElement("a");
    link.href = "/account/sign-in/?next=" + encodeURIComponent(location.pathname);
    link.textContent = "Sign in";
    text.append(link);
  }
  notice.append(text);
  byId("refusal").before(notice);
}

let lineTimer = 0;

function lineClosed(event) {
  const code = event.detail.code;
  clearTimeout(lineTimer);
  if (document.hidden || event.detail.reason === "removed") return;
  if (code >= 4400) { say(code); return; }
  /* A short break heals by itself and needs no words. */
  lineTimer = setTimeout(() => say("lost"), 2500);
}

function lineOpen() {
  clearTimeout(lineTimer);
  say(null);
}

/* --- the draft: never lost ---------------------------------------------------------------------- */

const composer = byId("composer");
const ask = byId("ask");
const draftKey = () => "draft " + (location.pathname.startsWith("/c/") ? composer.dataset.conversation : "new");

function keepDraft() {
  try {
    if (ask.value) localStorage.setItem(draftKey(), ask.value);
    else localStorage.removeItem(draftKey());
  } catch { /* storage is off: the text still stands in the field */ }
}

function restoreDraft() {
  let kept = null;
  try { kept = localStorage.getItem(draftKey()); } catch { return; }
  if (kept && !ask.value) ask.value = kept;
}

function refuse(headline, rest) {
  const box = byId("refusal");
  box.innerHTML = "";
  const notice = document.createElement("div"), p = document.createElement("p"), strong = document.createElement("strong");
  notice.className = "notice caution";
  notice.setAttribute("role", "alert");
  strong.textContent = headline;
  p.append(strong, " ", rest);
  notice.append(p);
  box.append(notice);
}

let sending = null;

function beforeSend(event) {
  const ctx = event.detail.ctx;
  if (ctx.sourceElement !== composer) return;
  if (sending !== null || !ask.value.trim()) { event.preventDefault(); return; }
  sending = ask.value;
  byId("act").setAttribute("aria-disabled", "true");
}

function afterSend(event) {
  const ctx = event.detail.ctx;
  if (ctx.sourceElement !== composer) return;
  const status = ctx.response && ctx.response.status;
  if (status >= 200 && status < 300) {
    const before = draftKey();
    if (ask.value === sending) ask.value = "";
    try { localStorage.removeItem(before); } catch { /* as above */ }
    grow();
    follow = true;
    document.querySelector("[data-delete]").hidden = false; /* there is something to delete now */
  }
  if (status === 401) say(4401);
  if (status === 404) say(4404);
  if (status >= 500) refuse("The server could not take your message.", "It is still here. Try again in a moment.");
}

function sendFailed(event) {
  const ctx = event.detail.ctx;
  if (!ctx || ctx.sourceElement !== composer) return;
  refuse("Not sent: the server can’t be reached.", "Your message is still here. Sending it again is safe.");
}

function sendOver(event) {
  const ctx = event.detail.ctx;
  if (!ctx || ctx.sourceElement !== composer) return;
  sending = null;
  const act = byId("act");
  if (act) act.removeAttribute("aria-disabled");
  keepDraft();
}

/* --- ratings ------------------------------------------------------------------------------------ */

const isRating = (event) => Boolean(event.detail.ctx && event.detail.ctx.sourceElement.closest(".tools, .satisfaction"));

function afterRating(event) {
  if (!isRating(event)) return;
  const status = event.detail.ctx.response && event.detail.ctx.response.status;
  if (status === 404) say(4404);
  else if (status >= 400 && status !== 401 && status !== 422) refuse("Your rating was not kept.", "Try again in a moment.");
}

function ratingFailed(event) {
  if (isRating(event)) refuse("Not kept: the server can’t be reached.", "Try again in a moment.");
}

function unfolded(event) {
  const details = event.target;
  if (details.open && details.matches(".reasons")) details.scrollIntoView({ block: "nearest" });
}

function fold(link) {
  const details = link.closest("details");
  details.open = false;
  details.querySelector("summary").focus();
}

/* Send and Stop share one place: the second half of a double click would stop what the first sent. */
function onceEach(event) {
  if (event.detail < 2 || !event.target.closest("#act")) return;
  event.preventDefault();
  event.stopPropagation();
}

function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  ask.rows = Math.min(12, ask.value.split("\n").length + Math.floor(ask.value.length / 90));
}

function keyInField(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (ask.value.trim()) composer.requestSubmit();
}

/* --- the end of the thread ---------------------------------------------------------------------- */

let follow = true;
const latest = document.querySelector("[data-latest]");
const hasThread = () => !document.getElementById("after-nothing");
const atEnd = () => !hasThread() || innerHeight + scrollY >= document.documentElement.scrollHeight - 48;

function toEnd() {
  scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
}

let stoodAt = 0;

/* Only who goes up stops following: the end may have moved on since the page went there. */
function scrolled() {
  follow = atEnd() || (follow && scrollY >= stoodAt);
  stoodAt = scrollY;
  latest.hidden = follow;
}

let painting = 0;

/* Once for all that changes before the page is painted again: asking for heights is dear. */
function changed(event) {
  if (isRating(event)) follow = false; /* what grew is where the reader is, not at the end */
  painting = painting || requestAnimationFrame(() => {
    painting = 0;
    if (follow) toEnd();
    else latest.hidden = atEnd();
    localTimes();
  });
}

/* --- small things ------------------------------------------------------------------------------- */

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

function localTimes() {
  for (const time of document.querySelectorAll("time[datetime]:not([data-local])")) {
    const at = new Date(time.dateTime);
    const isToday = at.toDateString() === new Date().toDateString();
    time.textContent = isToday ? clock.format(at) : day.format(at) + ", " + clock.format(at);
    time.dataset.local = "";
  }
}

function tick() {
  for (const span of document.querySelectorAll("[data-since]")) {
    const seconds = Math.max(0, Math.round((Date.now() - new Date(span.dataset.since)) / 1000));
    span.textContent = "· " + seconds + " s";
  }
  for (const span of document.querySelectorAll("[data-until]")) {
    const seconds = Math.ceil((new Date(span.dataset.until) - Date.now()) / 1000);
    span.textContent = seconds > 0 ? "· " + seconds + " s" : "· You can go on now.";
  }
}

async function copy(button, text) {
  try { await navigator.clipboard.writeText(text); } catch { announce("Copying is not allowed here."); return; }
  const label = button.getAttribute("aria-label");
  announce("Copied.");
  button.dataset.done = "";
  setTimeout(() => { delete button.dataset.done; if (label) button.setAttribute("aria-label", label); }, 1500);
}

function announce(text) { byId("status").textContent = text; }

function clicked(event) {
  const button = event.target.closest("[data-copy], [data-copy-reply], [data-ask], [data-latest], [data-fold]");
  if (!button) return;
  if (button.matches("[data-copy]")) copy(button, button.closest("figure").querySelector("code").textContent);
  else if (button.matches("[data-copy-reply]")) copy(button, button.closest(".said").querySelector(".prose").innerText);
  else if (button.matches("[data-fold]")) { event.preventDefault(); fold(button); }
  else if (button.matches("[data-latest]")) { event.preventDefault(); follow = true; toEnd(); scrolled(); }
  else { event.preventDefault(); ask.value = button.dataset.ask; grow(); keepDraft(); ask.focus(); }
}

document.addEventListener("htmx:ws:before:message:incoming", take);
document.addEventListener("htmx:ws:after:message:incoming", changed);
document.addEventListener("htmx:ws:close", lineClosed);
document.addEventListener("htmx:ws:after:connection", lineOpen);
document.addEventListener("htmx:before:request", beforeSend);
document.addEventListener("htmx:after:request", afterSend);
document.addEventListener("htmx:error", sendFailed);
document.addEventListener("htmx:after:request", afterRating);
document.addEventListener("htmx:error", ratingFailed);
document.addEventListener("toggle", unfolded, { capture: true });
document.addEventListener("htmx:finally:request", sendOver);
document.addEventListener("htmx:after:swap", changed);
document.addEventListener("click", onceEach, { capture: true });
document.addEventListener("click", clicked);
addEventListener("scroll", scrolled, { passive: true });
ask.addEventListener("input", () => { keepDraft(); grow(); });
ask.addEventListener("keydown", keyInField);
restoreDraft();
grow();
localTimes();
tick();
setInterval(tick, 1000);
htmx.config.history = "reload"; /* what stands above belongs to one page: another is loaded whole */
history.scrollRestoration = "manual"; /* a conversation opens at its end, also after a reload */
if (thread.querySelector(".turn")) toEnd();
if (matchMedia("(pointer: fine)").matches) ask.focus({ preventScroll: true });
