"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const source = (number) => "data:image/webp;base64," + data.pictures[number][0];
  const name = (label) => data.classes[label] ?? "";
  const quiet = { displaylogo: false, displayModeBar: false, responsive: true };
  const touch = matchMedia("(pointer: coarse)").matches;

  const about = (number) => {
    const [, file, split, label, predicted] = data.pictures[number];
    const taken = predicted < 0 ? "" : predicted === label ? "taken for that too" : "taken for " + name(predicted);
    return [name(label), taken, (split === "val" ? "validation" : "train") + ": " + file].filter(Boolean);
  };

  const lines = (place, texts) => {
    place.replaceChildren(...texts.flatMap((text, n) => (n ? [document.createElement("br"), text] : [text])));
  };

  // Pictures that stand in the page: each is in the file once, however often it is shown.
  for (const image of document.querySelectorAll("img[data-picture]")) image.src = source(image.dataset.picture);

  const draw = (id, figure) => {
    const place = document.getElementById(id);
    if (!place || !figure) return null;
    if (touch) figure.layout.dragmode = false; // a finger scrolls the page
    place.style.height = `${figure.layout.height}px`; // resizing forgets it
    Plotly.newPlot(place, figure.data, figure.layout, quiet);
    return place;
  };
  for (const [id, figure] of Object.entries(data.charts)) draw(id, figure);

  const map = draw("map", data.map);
  if (map) {
    const card = document.getElementById("map-card");
    const show = (event) => {
      const number = event.points[0].customdata;
      const image = card.querySelector("img");
      image.src = source(number);
      image.alt = data.pictures[number][1];
      image.hidden = false;
      lines(card.querySelector("figcaption"), about(number));
    };
    map.on("plotly_hover", show);
    map.on("plotly_click", show);
  }

  const gallery = document.getElementById("gallery");
  const open = (title, numbers) => {
    gallery.querySelector("h2").textContent = title;
    gallery.classList.toggle("one", numbers.length === 1);
    gallery.querySelector(".row").replaceChildren(...numbers.map((number) => {
      const tile = document.createElement("figure");
      const image = document.createElement("img");
      const caption = document.createElement("figcaption");
      tile.className = "tile";
      image.src = source(number);
      image.alt = data.pictures[number][1];
      lines(caption, numbers.length === 1 ? about(number) : about(number).slice(-2).map((text) => text.split("/").pop()));
      tile.append(image, caption);
      return tile;
    }));
    gallery.showModal();
  };

  // A class opens its mistakes first, then what was right.
  const ofClass = (label) => {
    const cells = Object.entries(data.cells).filter(([key]) => key.startsWith(label + "-"));
    cells.sort(([one], [other]) => (one === `${label}-${label}`) - (other === `${label}-${label}`));
    return cells.flatMap(([, numbers]) => numbers);
  };

  document.addEventListener("click", (event) => {
    if (event.target === gallery) gallery.close();
    const button = event.target.closest("button");
    if (!button) return;
    const { cell, open: one, class: label } = button.dataset;
    if (cell) open(button.getAttribute("aria-label"), data.cells[cell]);
    if (label) open(button.getAttribute("aria-label"), ofClass(label));
    if (one) open(about(Number(one))[0], [Number(one)]);
  });

  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
})();
