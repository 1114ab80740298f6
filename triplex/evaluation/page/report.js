"use strict";
const element = (id) => document.getElementById(id);
const table = document.querySelector(".samples");
const rows = [...table.tBodies[0].rows].map((row) => ({
  row,
  text: [...row.querySelectorAll(".text")].map((text) => text.textContent).join("\n").toLowerCase(),
  scores: [...row.querySelectorAll("td")].map((cell) => JSON.parse(cell.dataset.scores)), // by model, then by score
}));
let limit = 25;
let highestFirst = true;

// of "2": model 2's score; of "2-1": by how much it is above model 1's; NaN where there is none
function valueOf({ scores }, score, of) {
  const [value, other = 0] = of.split("-").map((model) => scores[model][score] ?? NaN);
  return value - other;
}

function update() {
  const wanted = element("search").value.trim().toLowerCase();
  const [side, of] = element("which").value.split(" ");
  const chosen = rows.filter((row) => row.text.includes(wanted) && (!of || side * valueOf(row, 0, of) > 0));
  const score = element("by").value;
  if (score) {
    const keyed = chosen.map((row) => [valueOf(row, score, element("of").value), row]);
    keyed.sort(([a], [b]) => (isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : highestFirst ? b - a : a - b));
    chosen.splice(0, chosen.length, ...keyed.map(([, row]) => row));
  }
  table.tBodies[0].replaceChildren(...chosen.slice(0, limit).map(({ row }) => row));
  table.classList.toggle("unshaded", !element("shade").checked);
  element("direction").textContent = highestFirst ? "highest first" : "lowest first";
  for (const name of ["of", "direction"]) element(name).disabled = !score;
  element("count").textContent = `${chosen.length} of ${rows.length} prompts`;
  element("more").textContent = `Show all ${chosen.length}`;
  element("more").hidden = chosen.length <= limit;
}

element("controls").addEventListener("input", update);
element("direction").addEventListener("click", () => { highestFirst = !highestFirst; update(); });
element("more").addEventListener("click", () => { limit = Infinity; update(); });
element("controls").hidden = false;
update();
