for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => {
      const cell = row.cells[column], value = cell.dataset.sortKey;
      return value === undefined ? cell.textContent : value === "" ? null : Number(value);
    };
    const compare = (one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === null || b === null) return (a === null) - (b === null); // missing values come last
      const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return up ? order : -order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
    heads.forEach((each) => each.setAttribute("aria-sort", each === head ? (up ? "ascending" : "descending") : "none"));
  }));
}
const boxes = document.querySelectorAll(".scroll");
const mark = () => boxes.forEach((box) =>
  box.classList.toggle("more", box.scrollLeft + box.clientWidth + 1 < box.scrollWidth));
for (const event of ["resize", "scroll", "toggle"]) addEventListener(event, mark, true);
mark();
const unfolded = [];
addEventListener("beforeprint", () => {
  unfolded.push(...document.querySelectorAll("details:not([open])"));
  unfolded.forEach((each) => { each.open = true; });
});
addEventListener("afterprint", () => unfolded.splice(0).forEach((each) => { each.open = false; }));
