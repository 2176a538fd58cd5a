// The diverging colours: orange, the paper at zero, blue.

const STEPS = 511;

const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function palette(dark) {
  const [positive, negative] = dark ? data.colours.dark : data.colours.light;
  const stops = [...negative.slice(1).reverse(), ...positive].map(channels);
  return Array.from({ length: STEPS }, (_, index) => {
    const place = (index / (STEPS - 1)) * (stops.length - 1);
    const left = Math.min(Math.floor(place), stops.length - 2);
    return stops[left].map((channel, at) => Math.round(channel + (stops[left + 1][at] - channel) * (place - left)));
  });
}

const PALETTES = { light: palette(false), dark: palette(true) };

// The colour of a number in a range from -reach to reach, as [red, green, blue].
function shade(value, reach, dark = isDark()) {
  const place = Math.round(((value / reach + 1) / 2) * (STEPS - 1));
  return PALETTES[dark ? "dark" : "light"][Math.min(Math.max(place, 0), STEPS - 1)];
}

// The end of the range of colours: far beyond the largest number where no word is known, and for numbers in logits at least what moves the
// output. `name` is that of scores or of a view; `of` says what has a number: a word, a patch, a head or a weight.
function colourRange(most, name, of) {
  const least = data.in_logits.includes(name) ? data.full_colour[of] : 0;
  return (Math.max(most, least) || 1) * (now().knows_no_word ? data.faded : 1);
}

const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

// Ink that stands out on a colour; on a luminance of 0.19 dark and white do the same.
const luminance = ([red, green, blue]) => 0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2;
const inkOn = (colour) => (luminance(colour) > 0.19 ? "#101216" : "#ffffff");

function legend(place, reach, label, dark = isDark()) {
  const stops = Array.from({ length: 21 }, (_, index) => css(shade(index / 10 - 1, 1, dark)));
  const strip = element("i", { "aria-hidden": "true" });
  strip.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  place.replaceChildren(element("span", {}, number(-reach)), strip, element("span", {}, number(reach)), element("span", {}, label));
}
