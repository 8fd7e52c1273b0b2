// The drawings stand without this: it lights up one configuration everywhere, and hides architectures.

const TIP_GAP = 14;
const tip = document.getElementById("tip");

function setLit(number, lit) {
  for (const element of document.querySelectorAll(`[data-number="${number}"]`)) {
    element.classList.toggle("lit", lit);
  }
}

function placeTip(event) {
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + TIP_GAP, window.innerWidth - width - TIP_GAP);
  const above = event.clientY - height - TIP_GAP;
  tip.style.left = `${Math.max(left, 0)}px`;
  tip.style.top = `${above < 0 ? event.clientY + TIP_GAP : above}px`;
}

for (const element of document.querySelectorAll("[data-number]")) {
  element.addEventListener("pointerenter", (event) => {
    setLit(element.dataset.number, true);
    tip.textContent = element.dataset.label ?? "";
    tip.hidden = !tip.textContent;
    placeTip(event);
  });
  element.addEventListener("pointerleave", () => {
    setLit(element.dataset.number, false);
    tip.hidden = true;
  });
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    for (const element of document.querySelectorAll(`.series, tr`)) {
      if (element.dataset.architecture === button.dataset.architecture) {
        element.toggleAttribute("hidden", !shown);
      }
    }
  });
}
