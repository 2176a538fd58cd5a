
// Small calls, by which `build.py` tries a library in a process of its own before it is used: a processor, or what stands for one, may say
// more than it can. attention.cpp stands in front of this.

namespace {

constexpr int64_t TRIED = 16, TRIED_KEYS = 64, SPARE = 1 << 17;  // queries and widths; keys; numbers for whatever a call needs

// Whether both passes are right where all numbers of query, key and value are a quarter: then all weights of a row are one.
template <class Number>
bool tries(Number quarter, bool half, float allowed) {
  static Number query[TRIED * TRIED], keys[TRIED_KEYS * TRIED], output[TRIED * TRIED], grad_query[TRIED * TRIED];
  static float lse[TRIED], grad_key[SPARE], grad_value[SPARE], partial[SPARE], scratch[SPARE];
  static uint32_t packed[SPARE];
  static uint8_t plain[1];
  for (Number& number : query) number = quarter;
  for (Number& number : keys) number = quarter;
  Call call = {};
  call.query = call.grad_output = query, call.key = call.value = keys, call.plain = plain;
  call.output = output, call.lse = lse, call.grad_query = grad_query, call.grad_key = grad_key, call.grad_value = grad_value;
  call.scratch = scratch, call.packed = packed;
  call.query_steps[2] = call.key_steps[2] = call.value_steps[2] = call.grad_output_steps[2] = TRIED;
  call.batch = call.heads = call.kv_heads = call.threads = call.apart = call.is_signed = call.position_step = 1;
  call.queries = call.rows = call.width = call.value_width = TRIED, call.keys = TRIED_KEYS;
  call.kind = call.half = half, call.share = SPARE, call.packed_share = half ? SPARE : 0, call.scale = 0.5;
  call.tile_size = TRIED * (TRIED_KEYS + (half ? TRIED : 0));
  const float weights = std::tanh(0.5f * TRIED / 16.0f), shared = weights * TRIED / TRIED_KEYS / 4.0f;
  const auto right = [&] { return std::fabs(number_of(output[0]) - weights / 4.0f) < allowed; };
  if (hf_tanhmax_forward(&call) != 0 || !right()) return false;
  if (hf_tanhmax_backward(&call) != 0 || !(std::fabs(grad_value[0] - shared) < allowed)) return false;
  output[0] = Number{};
  call.partial = partial, call.queries = call.rows = 1;
  return hf_tanhmax_forward(&call) == 0 && right();
}

}  // namespace

// 1 if everything that is tried here comes out right; a processor that lacks an instruction ends the process.
extern "C" int hf_tanhmax_try() {
  return tries<float>(0.25f, false, 1e-5f) && (!hf_tanhmax_half() || tries<Bfloat16>(Bfloat16{0x3e80}, true, 4e-3f));
}
