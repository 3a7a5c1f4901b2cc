"use strict";
// The page's own script: a CT in three planes by NiiVue, and the map of the chosen finding over it.
(async () => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const hasMaps = data.maps.length > 0;
  const findings = [...document.querySelectorAll("button.finding")];
  const presets = [...document.querySelectorAll("[data-window]")];
  const ends = ({ dataset }) => ({ cal_min: +dataset.level - dataset.width / 2, cal_max: +dataset.level + dataset.width / 2 });
  const sliders = ["sagittal", "coronal", "axial"].map(at); // along x, y and z
  // Towards the strongest: dark to bright, so that weak tokens stay in the background. 0 has none.
  const STEPS = { A: [0, 255, 255, 255], I: [0, 1, 128, 255] };
  const FOR = { R: [156, 156, 255, 255], G: [47, 47, 122, 226], B: [0, 0, 26, 122], ...STEPS };
  const AGAINST = { R: [10, 10, 47, 191], G: [63, 63, 143, 227], B: [143, 143, 255, 255], ...STEPS };
  // As scan.css lays out the marks of the patient's sides.
  const WIDE = [
    { sliceType: 0, position: [0, 0, 0.664, 1] },
    { sliceType: 1, position: [0.67, 0, 0.33, 0.495] },
    { sliceType: 2, position: [0.67, 0.505, 0.33, 0.495] },
  ];
  const NARROW = [
    { sliceType: 0, position: [0, 0, 1, 0.664] },
    { sliceType: 1, position: [0, 0.67, 0.495, 0.33] },
    { sliceType: 2, position: [0.505, 0.67, 0.495, 0.33] },
  ];
  let frame = -1;
  const minus = (text) => text.replaceAll("-", "−");
  const signed = (value) => minus((value > 0 ? "+" : "") + value.toPrecision(3));

  // Until all is drawn, and where it cannot be: the still pictures.
  function showPlanes(shown) {
    at("planes").hidden = at("controls").hidden = at("place").hidden = !shown;
    document.querySelector(".windows").hidden = !shown;
    at("stills").hidden = shown;
    if (hasMaps) at("about-maps").hidden = !shown;
    for (const button of findings) button.disabled = !shown;
  }
  if (!document.createElement("canvas").getContext("webgl2")) return;
  showPlanes(true);

  const viewer = new niivue.Niivue({
    isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: false,
    multiplanarShowRender: 0, show3Dcrosshair: false, isColorbar: false,
    crosshairWidthUnit: "mm", crosshairColor: [0.42, 0.69, 1, 1],
    backColor: [0.05, 0.067, 0.09, 1], dragAndDropEnabled: false, dragMode: 0,
    isForceMouseClickToVoxelCenters: true, loadingText: "", logLevel: "error",
  });
  // NiiVue's own keys and double click change windows and modes behind the page's back.
  viewer.keyDownListener = viewer.keyUpListener = viewer.resetBriCon = () => {};
  try {
    await viewer.attachToCanvas(at("canvas"));
    at("canvas").removeAttribute("tabindex"); // the sliders do all that keys can
    viewer.addColormap("for", FOR);
    viewer.addColormap("against", AGAINST);
    viewer.volumes = [await niivue.NVImage.loadFromBase64({
      base64: at("ct").textContent, name: "ct.nii.gz", colormap: "gray", ...ends(presets[0]),
    })];
    if (hasMaps) {
      const map = await niivue.NVImage.loadFromBase64({
        base64: at("maps").textContent, name: "maps.nii", colormap: "for", colormapNegative: "against",
        cal_min: 0, cal_max: 1, opacity: 0,
      });
      map.colormapType = 2; // colours from 0 to the strongest, nothing below the least
      // Of each map, shares of its strongest token: NiiVue takes ranges below 1e-5 for that.
      const tokens = map.img.length / data.maps.length;
      map.img.forEach((value, index) => {
        map.img[index] = value / (data.largest[Math.floor(index / tokens)] || 1);
      });
      viewer.volumes.push(map);
    }
    viewer.setVolume(viewer.volumes[0]); // draws all: once, as it takes long without a GPU
  } catch (error) {
    showPlanes(false);
    at("still-reason").textContent += ` (${error})`;
    return;
  }
  const [ct, map] = viewer.volumes;

  // Windows
  function setWindow(button) {
    const { level, width } = button.dataset;
    Object.assign(ct, ends(button));
    for (const other of presets) other.setAttribute("aria-pressed", String(other === button));
    at("window-text").textContent = minus(`level ${level}, width ${width} HU`);
  }
  for (const button of presets) {
    button.addEventListener("click", () => {
      setWindow(button);
      viewer.updateGLVolume();
    });
  }

  // Planes
  const counts = [0, 1, 2].map((axis) => ct.dimsRAS[axis + 1]);
  sliders.forEach((slider, axis) => {
    slider.max = counts[axis];
    // The middle of a voxel, as everywhere else: between two tokens, neither's value would be told.
    viewer.scene.crosshairPos[axis] = (Math.floor(counts[axis] / 2) + 0.5) / counts[axis];
    slider.addEventListener("input", () => {
      // From the right, the front and the foot end; NiiVue counts from left, back and foot end.
      const position = (slider.value - 0.5) / counts[axis];
      viewer.scene.crosshairPos[axis] = axis === 2 ? position : 1 - position;
      viewer.drawScene();
      viewer.createOnLocationChange();
    });
  });
  const side = (mm, more, less) => `${mm < 0 ? less : more} ${Math.abs(mm).toFixed(0)}`;
  viewer.onLocationChange = (location) => {
    const fractions = viewer.scene.crosshairPos;
    sliders.forEach((slider, axis) => {
      const fraction = axis === 2 ? fractions[axis] : 1 - fractions[axis];
      slider.value = Math.min(Math.floor(fraction * counts[axis]) + 1, counts[axis]);
      slider.previousElementSibling.textContent = `${slider.value} of ${counts[axis]}`;
    });
    const [x, y, z] = location.mm;
    const words = [
      `Crosshair: ${side(x, "R", "L")}, ${side(y, "A", "P")}, ${side(z, "S", "I")} mm from the middle`,
      `${location.values[0].value.toFixed(0)} HU`,
    ];
    if (frame >= 0 && location.values[1]) words.push(`token ${signed(location.values[1].value * data.largest[frame])}`);
    at("place").textContent = minus(words.join("; "));
  };

  // Maps
  function drawMap() {
    const least = Math.max(at("least").value / 100, 1e-6);
    [map.cal_min, map.cal_max] = [least, 1];
    [map.cal_minNeg, map.cal_maxNeg] = [-1, -least];
    map.opacity = at("opacity").value / 100;
    at("opacity").previousElementSibling.textContent = `${at("opacity").value} %`;
    at("least").previousElementSibling.textContent = `${at("least").value} %`;
    at("scale-low").textContent = signed(-data.largest[frame] || 0);
    at("scale-high").textContent = signed(data.largest[frame]);
    viewer.refreshLayers(map, 1);
    viewer.drawScene();
    viewer.createOnLocationChange();
  }
  function choose(button) {
    frame = Number(button.dataset.frame);
    for (const other of findings) other.setAttribute("aria-pressed", String(other === button));
    const { finding, total } = data.maps[frame];
    const none = "no token counts for or against it";
    const told = data.largest[frame] ? `all tokens add up to ${signed(total)}` : none;
    at("map-title").textContent = `${finding}: ${told}`;
    at("legend").hidden = false;
    map.frame4D = frame;
    drawMap();
  }
  for (const button of findings) button.addEventListener("click", () => choose(button));
  if (hasMaps) for (const id of ["opacity", "least"]) at(id).addEventListener("input", drawMap);

  // Narrow windows have the small planes below the large one.
  const layOut = () => {
    const box = at("canvas").getBoundingClientRect();
    viewer.setCustomLayout(box.height > box.width ? NARROW : WIDE);
    // A pixel in the small planes: thinner lines vanish there.
    const pixels = 0.33 * Math.max(box.height, box.width) * devicePixelRatio;
    const extent = Math.max(...counts.map((count, axis) => count * ct.pixDimsRAS[axis + 1]));
    viewer.setCrosshairWidth((1.05 * extent) / pixels);
  };
  new ResizeObserver(layOut).observe(at("canvas"));
  layOut();
  setWindow(presets[0]);
  if (hasMaps) choose(findings[0]);
  viewer.createOnLocationChange();
  document.documentElement.dataset.ready = "";
})();
