"use strict";
(() => {
  const text = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
  const empty = (value) => value === "" || value === "–";

  const compare = (numeric, way) => (a, b) => {
    if (empty(a.key) || empty(b.key)) return empty(a.key) - empty(b.key); // what is missing stays last
    const order = numeric ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
    return order * way;
  };

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, key: text(row, head.cellIndex) }));
      rows.sort(compare(head.classList.contains("number"), up ? 1 : -1));
      body.append(...rows.map((entry) => entry.row));
    });
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const body = document.getElementById(input.dataset.filter).tBodies[0];
    const said = input.closest(".filter").querySelector("[aria-live]");
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      let shown = 0;
      for (const row of body.rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        shown += !row.hidden;
      }
      said.textContent = wanted ? `${shown} of ${body.rows.length} rows` : "";
    });
  }

  const link = document.getElementById("download");
  if (link && "DecompressionStream" in window) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
      const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      const save = document.createElement("a");
      save.href = URL.createObjectURL(await new Response(plain).blob());
      save.download = link.download.replace(/\.gz$/, "");
      save.click();
      URL.revokeObjectURL(save.href);
    });
  }
})();
