"use strict";
(() => {
  const text = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
  const empty = (value) => value === "" || value === "–";

  const compare = (numeric, direction) => (a, b) => {
    if (empty(a.key) || empty(b.key)) return empty(a.key) - empty(b.key); // missing values stay last
    const order = numeric ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
    return order * direction;
  };

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, key: text(row, head.cellIndex) }));
      rows.sort(compare(head.classList.contains("number"), up ? 1 : -1));
      body.append(...rows.map((entry) => entry.row));
    });
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const body = document.getElementById(input.dataset.filter).tBodies[0];
    const status = input.closest(".tools").querySelector("[aria-live]");
    input.addEventListener("input", () => {
      const query = input.value.trim().toLowerCase();
      let shown = 0;
      for (const row of body.rows) {
        row.hidden = !row.textContent.toLowerCase().includes(query);
        shown += !row.hidden;
      }
      status.textContent = query ? `${shown} of ${body.rows.length} rows` : "";
    });
  }

  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  };

  // Numbers lose their thousands separators and get an ASCII minus. Other text that begins like a
  // formula gets an apostrophe, since a spreadsheet would run it.
  const formulaStart = new RegExp("FORMULA_START");
  const plain = (value) => {
    const number = value.replaceAll("−", "-");
    if (/^[+-]?[\d,]*\.?\d+( %)?$/.test(number)) return number.replaceAll(",", "").replace(" %", "%");
    return formulaStart.test(value) ? `'${value}` : value;
  };
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const trim = (value) => value.replace(/\s+/g, " ").trim();
  const cellText = (cell) => {
    const copy = cell.cloneNode(true);
    for (const part of copy.querySelectorAll("small, svg, .visually-hidden")) part.remove();
    const content = trim(copy.textContent);
    return content === "–" ? "" : plain(content);
  };
  const remarks = (row) => [...row.querySelectorAll("small")].map((part) => trim(part.textContent)).join("; ");

  for (const button of document.querySelectorAll("button[data-csv]")) {
    const table = document.getElementById(button.dataset.csv);
    button.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const lines = rows.map((row) => [...[...row.cells].map(cellText), plain(remarks(row))]);
      lines.unshift([...[...table.tHead.rows[0].cells].map(cellText), "Remarks"]);
      const csv = lines.map((cells) => cells.map(quoted).join(",")).join("\r\n") + "\r\n";
      const name = `${document.title} ${table.caption.textContent}`.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 100);
      save(new Blob(["\ufeff", csv], { type: "text/csv" }), `${name}.csv`);
      button.closest(".tools").querySelector("[aria-live]").textContent = `${rows.length} rows saved`;
    });
  }
  for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

  const link = document.getElementById("download");
  if (link && "DecompressionStream" in window) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
      const decompressed = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      save(await new Response(decompressed).blob(), link.download.replace(/\.gz$/, ""));
    });
  }
})();
