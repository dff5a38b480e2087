"use strict";
// One sound at a time; a line runs over its frames and spectrogram.
let playing = null;

function stop() {
  if (!playing) return;
  playing.sound.pause();
  playing.sample.classList.remove("playing");
  playing = null;
}

function follow() {
  if (!playing) return;
  const { sound, sample } = playing;
  const share = sound.duration ? sound.currentTime / sound.duration : 0;
  sample.querySelector(".head").style.left = `${100 * share}%`;
  requestAnimationFrame(follow);
}

for (const sample of document.querySelectorAll(".sample")) {
  const sound = sample.querySelector("audio");
  const toggle = () => {
    const again = playing && playing.sample === sample;
    stop();
    if (again) return;
    playing = { sound, sample };
    sound.currentTime = 0;
    sound.play().then(() => requestAnimationFrame(follow), stop);
    sample.classList.add("playing");
  };
  sound.addEventListener("ended", stop);
  sample.querySelector(".play").addEventListener("click", toggle);
  sample.querySelector(".view").addEventListener("click", toggle);
}
