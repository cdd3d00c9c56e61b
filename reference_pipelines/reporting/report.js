"use strict";
// Tables: a click on a heading sorts by it, another one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const numbers = head.classList.contains("number");
      const now = head.getAttribute("aria-sort");
      const down = now ? now === "ascending" : numbers; // numbers begin with the highest
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => {
        const cell = row.cells[place];
        if (!numbers) return cell.dataset.text;
        return cell.dataset.order === undefined ? null : Number(cell.dataset.order);
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null); // no value comes last, either way
        const order = numbers ? a - b : a.localeCompare(b, "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Charts: the values at the cursor, by pointer or by arrow keys.
for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.dataset.plot);
  const chart = plot.querySelector(".chart");
  const cursor = plot.querySelector(".cursor");
  const tip = plot.querySelector(".tip");
  const stops = data.dots
    ? data.dots.map((dot, i) => i).sort((a, b) => data.dots[a][0] - data.dots[b][0])
    : [...new Set(data.lines.flatMap((line) => line[2].map((at) => at[0])))].sort((a, b) => a - b);
  let at = -1;
  const hide = () => { tip.hidden = true; cursor.setAttribute("d", ""); at = -1; };
  const line = (words, order) => {
    const row = document.createElement("div");
    if (order !== undefined) {
      const sample = document.createElement("i");
      sample.className = "swatch s" + (order % 6);
      row.append(sample);
    }
    row.append(words);
    return row;
  };
  const show = (place) => {
    if (!stops.length) return;
    at = Math.max(0, Math.min(stops.length - 1, place));
    let x;
    if (data.dots) {
      const [px, py, words] = data.dots[stops[at]];
      x = px;
      cursor.setAttribute("d", `M${px - 7} ${py}a7 7 0 1 0 14 0a7 7 0 1 0-14 0z`);
      tip.replaceChildren(line(words));
    } else {
      x = stops[at];
      cursor.setAttribute("d", `M${x} 12V178`);
      const here = data.lines.map(([label, order, points]) => [label, order, points.find((each) => each[0] === x)]);
      const first = here.find((each) => each[2]);
      tip.replaceChildren(line(`${data.x} ${first[2][2]}`), ...here.filter((each) => each[2])
        .map(([label, order, point]) => line(`${label}: ${point[3]}`, order)));
    }
    tip.hidden = false;
    const scale = chart.clientWidth / chart.viewBox.baseVal.width;
    const room = plot.clientWidth - tip.offsetWidth;
    const wanted = x * scale > plot.clientWidth / 2 ? x * scale - tip.offsetWidth - 12 : x * scale + 12;
    tip.style.left = `${Math.max(0, Math.min(room, wanted))}px`;
  };
  plot.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const scale = chart.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const far = stops.map((stop) => (data.dots
      ? Math.hypot(data.dots[stop][0] - x, data.dots[stop][1] - y) : Math.abs(stop - x)));
    const nearest = far.indexOf(Math.min(...far));
    if (nearest >= 0 && !(data.dots && far[nearest] > 24)) show(nearest); else hide();
  });
  plot.addEventListener("pointerleave", () => { if (document.activeElement !== plot) hide(); });
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Escape") hide();
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(stops.length - 1);
    else if (event.key in steps) show(at < 0 && steps[event.key] < 0 ? stops.length - 1 : at + steps[event.key]);
    else return;
    event.preventDefault();
  });
}
