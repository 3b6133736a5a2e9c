/* Lets the replies of the playground arrive word by word. Without it the page brings them when they have ended. */
"use strict";

const follow = (reply) => {
  const address = reply.dataset.stream;
  delete reply.dataset.stream;
  const text = reply.querySelector("[data-text]");
  const source = new EventSource(address);
  // After a lost connection everything is told again, from the beginning.
  source.addEventListener("begin", () => text.replaceChildren());
  source.addEventListener("text", (event) => text.append(JSON.parse(event.data)));
  source.addEventListener("end", (event) => {
    source.close();
    reply.outerHTML = JSON.parse(event.data);
  });
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return;
    reply.querySelector("[data-state]").textContent = "The line is broken. Try again.";
  });
};

const followAll = () => document.querySelectorAll("[data-stream]").forEach(follow);

new MutationObserver(followAll).observe(document.getElementById("trials"), { childList: true, subtree: true });
followAll();
