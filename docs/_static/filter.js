// Tables in a box of class "filterable": a field for words, lists for some columns, limits for others.
// Without this script the whole table is there.
"use strict";

function makeFilter(box) {
  const table = box.querySelector("table");
  if (!table) return;
  const heads = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => ({
    row,
    cells: [...row.cells].map((cell) => cell.textContent.trim()),
  }));
  const form = document.createElement("form");
  const tests = [];

  function field(name, input) {
    const label = document.createElement("label");
    label.append(name, input);
    form.append(label);
    input.addEventListener("input", update);
    return input;
  }

  function update() {
    let shown = 0;
    for (const { row, cells } of rows) {
      const fits = tests.every((test) => test(cells));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  }

  for (const name of box.classList) {
    const [kind, number] = name.split("-");
    const column = Number(number);
    if (kind === "list") {
      const list = field(heads[column], document.createElement("select"));
      for (const value of ["", ...new Set(rows.map(({ cells }) => cells[column]))]) {
        list.add(new Option(value || "all", value));
      }
      tests.push((cells) => !list.value || cells[column] === list.value);
    } else if (kind === "most") {
      const most = field(`${heads[column]}, at most`, document.createElement("input"));
      most.type = "number";
      most.min = 0;
      most.step = "any";
      tests.push((cells) => most.value === "" || Number(cells[column].replace(/,/g, "")) <= Number(most.value));
    }
  }
  const words = field("words", document.createElement("input"));
  words.type = "search";
  tests.push((cells) =>
    words.value.toLowerCase().split(/\s+/).every((word) => cells.some((cell) => cell.toLowerCase().includes(word))));
  const count = document.createElement("output");
  form.append(count);
  form.addEventListener("submit", (event) => event.preventDefault());
  box.prepend(form);
  update();
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".filterable").forEach(makeFilter));
