// A click on a point of the frontier, or Enter or Space while it has the focus, chooses it.
const choose = (event) => {
  const point = event.target.closest("[data-point]");
  if (!point) return;
  event.preventDefault();
  trigger("select", { index: Number(point.dataset.point) });
};
element.addEventListener("click", choose);
element.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") choose(event);
});
