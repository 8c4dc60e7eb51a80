"use strict";
// What the page does beyond being read: tables sort by a column, and figures say the value that is pointed at.
const missing = "–";

function sorted(table, column, down) {
  const rows = [...table.tBodies[0].rows], key = (row) => row.cells[column].textContent.trim();
  const known = rows.filter((row) => key(row) !== missing), numbers = known.every((row) => key(row) !== "" && !isNaN(key(row)));
  const compare = numbers ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
  known.sort((a, b) => (down ? -1 : 1) * compare(a, b));
  table.tBodies[0].append(...known, ...rows.filter((row) => key(row) === missing)); // what is missing stays last
}

for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sorted(table, column, down);
    });
  });
}

for (const svg of document.querySelectorAll("svg.drawn")) {
  const dots = [...svg.querySelectorAll(".values circle")];
  if (!dots.length) continue;
  const words = document.createElement("p");
  words.className = "value";
  words.setAttribute("aria-live", "polite");
  svg.after(words);
  svg.tabIndex = 0;
  let at = -1;
  const show = (index) => {
    if (at >= 0) dots[at].classList.remove("on");
    at = index;
    dots[at].classList.add("on");
    words.textContent = dots[at].textContent;
  };
  svg.addEventListener("pointermove", (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = -1, least = 12;
    dots.forEach((dot, index) => {
      const off = Math.hypot(dot.cx.baseVal.value - place.x, dot.cy.baseVal.value - place.y);
      if (off < least) { least = off; best = index; }
    });
    if (best >= 0 && best !== at) show(best);
  });
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -dots.length, End: dots.length };
    if (!(event.key in steps)) return;
    show(Math.max(0, Math.min(dots.length - 1, at + steps[event.key])));
    event.preventDefault();
  });
}
document.getElementById("how").textContent = "Point at a line for its values, or focus a figure and use the arrow keys.";
document.body.dataset.ready = "true";
