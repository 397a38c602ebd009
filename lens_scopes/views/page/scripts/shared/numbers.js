// Number formats of every view: for the same number the text of `views/words/numbers.py`, ties to even included.

/** Four significant digits, or words where there is no number; null is what JSON has in place of NaN and infinity. */
export function number(value) {
  if (value === null || value === undefined) return "not finite";
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "minus infinite";
  if (value === 0) return "0";
  const { sign, digits, exponent } = rounded(value, 4);
  if (exponent < -4 || exponent >= 4) {
    const power = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${digits[0]}.${digits.slice(1)}e${exponent < 0 ? "-" : "+"}${power}`;
  }
  return sign + placed(digits, exponent);
}

/** A number with its unit, where it has one. */
export function measured(value, unit) {
  return unit && Number.isFinite(value) ? `${number(value)} ${unit}` : number(value);
}

/** Two significant digits for a narrow cell; whole numbers from 100 to 9999, powers of ten below 0.001. */
export function short(value) {
  if (value === null || Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100 && size < 9999.5) return (value < 0 ? "-" : "") + fixed(size, 0);
  const { sign, digits, exponent } = rounded(value, 2);
  const kept = digits.replace(/0+$/, "");
  if (exponent < -3 || exponent >= 2) return `${sign}${kept.length > 1 ? `${kept[0]}.${kept.slice(1)}` : kept}e${exponent}`;
  const text = placed(digits, exponent);
  return sign + (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
}

/** A share or probability in [0, 1] as a percentage. */
export function percent(share) {
  const hundredfold = 100 * share;
  if (hundredfold >= 9.95) return `${fixed(hundredfold, 1)}%`;
  if (hundredfold === 0) return "0%";
  if (hundredfold < 0.001) return "<0.001%";
  const { digits, exponent } = rounded(hundredfold, 2);
  return `${placed(digits, exponent)}%`;
}

/** A number's sign, its first digits rounded half to even, and the power of ten of the first of them. */
function rounded(value, count) {
  const [mantissa, exact] = Math.abs(value).toExponential(100).replace(".", "").split("e");
  const tie = /^50*$/.test(mantissa.slice(count)) && Number(mantissa[count - 1]) % 2 === 0;
  const [digits, exponent] = tie
    ? [mantissa.slice(0, count), exact]
    : Math.abs(value)
        .toExponential(count - 1)
        .replace(".", "")
        .split("e");
  return { sign: value < 0 ? "-" : "", digits, exponent: Number(exponent) };
}

/** Digits with the point where the power of ten of the first one puts it. */
function placed(digits, exponent) {
  if (exponent < 0) return `0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1);
  return exponent + 1 < digits.length ? `${whole}.${digits.slice(exponent + 1)}` : whole;
}

/** A number that is not negative with so many decimals, rounded half to even. */
function fixed(value, decimals) {
  const exact = value.toFixed(100);
  const cut = exact.length - 100 + decimals;
  const last = exact[cut - 1] === "." ? exact[cut - 2] : exact[cut - 1];
  const tie = /^50*$/.test(exact.slice(cut)) && Number(last) % 2 === 0;
  return tie ? exact.slice(0, cut).replace(/\.$/, "") : value.toFixed(decimals);
}
