(() => {
"use strict";
// TOOLS
const draw = (data, stage) => {
// SCRIPT
};
for (const root of document.querySelectorAll('.annotated-piece[data-piece="ID"]:not([data-live])')) {
  const stage = el("div", { class: "stage" });
  draw(JSON.parse(root.querySelector('script[type="application/json"]').textContent), stage);
  root.dataset.live = "";
  root.dataset.lmSuppressShortcuts = "";                            // keys here are not JupyterLab's commands
  root.querySelector(".still").replaceWith(stage);
}
})();
