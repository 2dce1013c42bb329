// Runs kernels on numbers that every platform makes alike and prints a line for each: its name and a hash of the bits
// that it wrote. tools/portability_check.py builds it with several compilers and compares the lines. Neither Python nor
// torch is needed, so that it runs under an emulator of another processor.
#include <cstdio>
#include <string>
#include <vector>

#include "../../csrc/cpu/adam.h"
#include "../../csrc/cpu/categorical.h"
#include "../../csrc/cpu/clip_grad_norm.h"
#include "../../csrc/cpu/convert_floats.h"
#include "../../csrc/cpu/gae.h"
#include "../../csrc/cpu/gather.h"
#include "../../csrc/cpu/gaussian.h"
#include "../../csrc/cpu/importance_ratio.h"
#include "../../csrc/cpu/pixel_linear.h"
#include "../../csrc/cpu/pixel_linear_grad.h"
#include "../../csrc/cpu/ppo_loss.h"
#include "../../csrc/cpu/puff_advantage.h"
#include "../../csrc/cpu/retrace.h"
#include "../../csrc/cpu/reverse_scan.h"
#include "../../csrc/cpu/row_priorities.h"
#include "../../csrc/cpu/sample_segments.h"
#include "../../csrc/cpu/scatter.h"
#include "../../csrc/cpu/td_lambda.h"
#include "../../csrc/cpu/vtrace.h"

using namespace hotloop;

namespace {

uint64_t state = 88172645463325252ull;

// In [0, 1), 24 bits: exact in float32.
double uniform() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return static_cast<double>(state >> 40) / 16777216.0;
}

template <class T>
DType dtype_of() {
  return sizeof(T) == 8 ? DType::f64 : DType::f32;
}

template <class T>
struct Array {
  std::vector<T> values;
  int64_t rows, columns;

  Array(int64_t n, int64_t t, double low = 0, double high = 0)
      : values(static_cast<size_t>(n * t)), rows(n), columns(t) {
    if (low < high) {
      for (T& value : values) value = static_cast<T>(low + (high - low) * uniform());
    }
  }
  View view() {
    View v;
    v.data = reinterpret_cast<char*>(values.data());
    v.dtype = std::is_floating_point<T>::value ? dtype_of<T>() : sizeof(T) == 8 ? DType::i64 : DType::u8;
    v.ndim = 2;
    v.shape[0] = rows, v.shape[1] = columns;
    v.stride[0] = columns, v.stride[1] = 1;
    return v;
  }
  Matrix matrix() { return as_matrix(view()); }
  Matrix column() { return as_column(view()); }
};

Array<uint8_t> flags(int64_t n, int64_t t, double chance) {
  Array<uint8_t> made(n, t);
  for (uint8_t& flag : made.values) flag = uniform() < chance;
  return made;
}

class Hash {
 public:
  template <class T>
  Hash& add(const std::vector<T>& values) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash_ = (hash_ ^ bytes[i]) * 1099511628211ull;
    return *this;
  }
  template <class T>
  Hash& add(const Array<T>& array) {
    return add(array.values);
  }
  void print(const char* name, int64_t n, int64_t t, size_t width) const {
    std::printf("%s [%lld, %lld] f%d %016llx\n", name, static_cast<long long>(n), static_cast<long long>(t),
                static_cast<int>(8 * width), static_cast<unsigned long long>(hash_));
  }

 private:
  uint64_t hash_ = 14695981039346656037ull;
};

template <class T>
void estimators(int64_t n, int64_t t) {
  Array<T> rewards(n, t, -1, 1), values(n, t, -2, 2), last(n, 1, -2, 2), final_values(n, t, -2, 2),
      ratio(n, t, 0.2, 3);
  Array<uint8_t> terminated = flags(n, t, 0.05), truncated = flags(n, t, 0.05), valid = flags(n, t, 0.9);
  Array<T> out(n, t), second(n, t), priorities(n, 1);
  std::vector<double> summary(kSummarySize), partials(static_cast<size_t>(n * kSummarySize));

  DepartureArgs in;
  in.rows = n, in.horizon = t, in.dtype = dtype_of<T>();
  in.rewards = rewards.matrix(), in.values = in.baseline = values.matrix(), in.last_values = last.column();
  in.terminated = terminated.matrix(), in.truncated = truncated.matrix();
  in.truncation_values = final_values.matrix(), in.valid = valid.matrix();
  in.discounts.gamma = 0.99, in.discounts.gae_lambda = 0.95;

  GaeParams g;
  g.in = in, g.advantages = out.matrix(), g.returns = second.matrix();
  g.statistics.priorities = priorities.column(), g.statistics.summary = summary.data();
  g.statistics.partials = partials.data();
  gae(g);
  Hash().add(out).add(second).add(priorities).add(summary).print("gae", n, t, sizeof(T));

  in.importance = ratio.matrix();
  VtraceParams v;
  v.in = in, v.targets = out.matrix(), v.pg_advantages = second.matrix();
  vtrace(v);
  Hash().add(out).add(second).print("vtrace", n, t, sizeof(T));
  RetraceParams r;
  r.in = in, r.targets = out.matrix();
  retrace(r);
  Hash().add(out).print("retrace", n, t, sizeof(T));
  in.importance = in.baseline = Matrix();
  TdLambdaParams l;
  l.in = in, l.returns = out.matrix();
  td_lambda(l);
  Hash().add(out).print("td_lambda", n, t, sizeof(T));

  Array<T> dones(n, t);
  for (size_t i = 0; i < dones.values.size(); ++i) dones.values[i] = terminated.values[i];
  PuffAdvantageParams p;
  p.segments = n, p.horizon = t;
  p.values = values.matrix(), p.rewards = rewards.matrix(), p.dones = dones.matrix(),
  p.importance = ratio.matrix();
  p.advantages = out.matrix(), p.discounts = in.discounts, p.rho_clip = p.c_clip = 1;
  puff_advantage(p);
  Hash().add(out).print("puff_advantage", n, t, sizeof(T));
  ReverseScanParams s;
  s.rows = n, s.horizon = t, s.a = values.matrix(), s.b = rewards.matrix(), s.out = out.matrix();
  reverse_scan(s);
  Hash().add(out).print("reverse_scan", n, t, sizeof(T));
  RowPrioritiesParams y;
  y.rows = n, y.horizon = t, y.advantages = rewards.matrix(), y.priorities = priorities.column();
  row_priorities(y);
  Hash().add(priorities).print("row_priorities", n, t, sizeof(T));
}

template <class T>
void heads(int64_t n, int64_t k) {
  Array<T> logits(n, k, -3, 3), log_prob(n, 1), entropy(n, 1), saved(n, 3), mean(n, k, -1, 1),
      log_std(n, k, -1, 0);
  Array<int64_t> actions(n, 1);
  CategoricalParams c;
  c.rows = n, c.heads = 1, c.choices = &k;
  c.logits = logits.matrix(), c.actions = actions.matrix(), c.saved = saved.matrix();
  c.log_prob = log_prob.column(), c.entropy = entropy.column();
  c.draw = true, c.seed = 7, c.step = 3;
  categorical(c);
  Hash().add(actions).print("categorical draws", n, k, sizeof(T));
  Hash().add(log_prob).add(entropy).add(saved).print("categorical", n, k, sizeof(T));
  Array<T> grad(n, 1, -1, 1), grad_logits(n, k), normal(n, k);
  CategoricalBackwardParams b;
  b.rows = n, b.heads = 1, b.choices = &k;
  b.grad_log_prob = b.grad_entropy = grad.column();
  b.logits = c.logits, b.actions = c.actions, b.saved = c.saved, b.grad_logits = grad_logits.matrix();
  categorical_backward(b);
  Hash().add(grad_logits).print("categorical_backward", n, k, sizeof(T));
  GaussianParams g;
  g.rows = n, g.width = k;
  g.mean = mean.matrix(), g.log_std = log_std.matrix(), g.actions = normal.matrix();
  g.log_prob = log_prob.column(), g.entropy = entropy.column();
  g.draw = true, g.seed = 7, g.step = 3;
  gaussian(g);
  Hash().add(normal).add(log_prob).add(entropy).print("gaussian", n, k, sizeof(T));
}

template <class T>
void losses(int64_t n, int64_t t) {
  Array<T> x[7] = {{n, t, -2, 0}, {n, t, -2, 0}, {n, t, -1, 1}, {n, t, -1, 1},
                   {n, t, -1, 1}, {n, t, -1, 1}, {n, t, 0, 1}};
  Array<T> gradients[3] = {{n, t}, {n, t}, {n, t}}, ratio(n, t);
  const int64_t blocks = (n * t + kPpoBlock - 1) / kPpoBlock;
  std::vector<double> statistics(kPpoStatistics), partial(static_cast<size_t>(blocks * kPpoSums));
  std::vector<T> loss(1);
  PpoLossParams p;
  p.rows = n, p.columns = t;
  p.new_log_prob = x[0].matrix(), p.old_log_prob = x[1].matrix(), p.advantages = x[2].matrix();
  p.new_values = x[3].matrix(), p.old_values = x[4].matrix(), p.returns = x[5].matrix(), p.entropy = x[6].matrix();
  p.clip_coef = p.vf_clip_coef = 0.2, p.vf_coef = 0.5, p.ent_coef = 0.01, p.eps = 1e-8,
  p.normalize_advantage = true;
  p.loss = reinterpret_cast<char*>(loss.data()), p.statistics = statistics.data(), p.partial = partial.data();
  for (int i = 0; i < 3; ++i) p.gradients[i] = gradients[i].matrix();
  ppo_loss(p);
  Hash()
      .add(loss)
      .add(statistics)
      .add(gradients[0])
      .add(gradients[1])
      .add(gradients[2])
      .print("ppo_loss", n, t, sizeof(T));
  ImportanceRatioParams r;
  r.rows = n, r.columns = t, r.new_log_prob = x[0].matrix(), r.old_log_prob = x[1].matrix(),
  r.out = ratio.matrix();
  importance_ratio(r);
  Hash().add(ratio).print("importance_ratio", n, t, sizeof(T));
}

template <class T>
void optimizer(int64_t n) {
  Array<T> x[4] = {{1, n, -1, 1}, {1, n, -1, 1}, {1, n, -1, 1}, {1, n, 0, 1}};
  GradientRun run;
  run.at.data[0] = x[1].view().data, run.at.stride[0] = 1, run.at.count = n, run.dtype = dtype_of<T>();
  std::vector<double> sums(1);
  SquareSumsParams s;
  s.runs = &run, s.count = 1, s.sums = sums.data();
  square_sums(s);
  ScaleRunsParams f;
  f.runs = &run, f.count = 1, f.factor = 0.3;
  scale_runs(f);
  Hash().add(sums).add(x[1]).print("clip_grad_norm", 1, n, sizeof(T));

  AdamRun step;
  step.tensor = 0, step.at.count = n;
  for (int i = 0; i < kAdamViews; ++i) step.at.data[i] = x[i].view().data, step.at.stride[i] = 1;
  AdamSettings settings;
  settings.lr = 0.01, settings.beta1 = 0.9, settings.beta2 = 0.999, settings.eps = 1e-8;
  const AdamRates<float> rates32 = adam_rates<float>(settings, 3);
  const AdamRates<double> rates64 = adam_rates<double>(settings, 3);
  const DType dtype = dtype_of<T>();
  AdamParams a;
  a.runs = &step, a.count = 1, a.dtypes = &dtype, a.rates32 = &rates32, a.rates64 = &rates64;
  adam(a);
  Hash().add(x[0]).add(x[2]).add(x[3]).print("adam", 1, n, sizeof(T));
}

void movement(int64_t n, int64_t t) {
  Array<float> source(n, t, -1, 1), target(n, t);
  Array<double> wide(n, t);
  Array<int64_t> index(1, n);
  for (int64_t i = 0; i < n; ++i) index.values[static_cast<size_t>(i)] = (7 * i + 3) % n;
  GatherParams g;
  g.sources = {source.view(), source.view()}, g.outputs = {target.view(), wide.view()};
  g.indices = index.values.data(), g.count = n;
  gather(g);
  Hash().add(target).add(wide).print("gather", n, t, 4);
  ScatterParams s;
  s.targets = {wide.view()}, s.sources = {source.view()}, s.indices = index.values.data(), s.count = n;
  scatter(s);
  Hash().add(wide).print("scatter", n, t, 8);
  Array<uint16_t> half(n, t);
  for (DType to : {DType::f16, DType::bf16}) {
    ConvertFloatsParams c;
    c.to = to, c.out = reinterpret_cast<char*>(half.values.data()), c.in = source.view().data, c.count = n * t,
    c.scale = 3;
    convert_floats(c);
    Hash().add(half).print(to == DType::f16 ? "to float16" : "to bfloat16", n, t, 2);
  }
}

void sampling(int64_t segments, int64_t count) {
  Array<float> priorities(segments, 1, 0, 2), weights(count, 1);
  Array<int64_t> indices(count, 1);
  const char* names[] = {"sequential", "permutation", "successive", "with_replacement", "systematic"};
  for (int law = 0; law < 5; ++law) {
    SampleSegmentsParams p;
    p.law = static_cast<SamplingLaw>(law), p.segments = segments, p.count = count, p.seed = 11, p.epoch = 2;
    if (law > 1) p.priorities = priorities.column();
    p.indices = indices.column(), p.weights = weights.column();
    sample_segments(p);
    Hash().add(indices).print(names[law], segments, count, 8);
    Hash().add(weights).print((std::string(names[law]) + " weights").c_str(), segments, count, 4);
  }
}

}  // namespace

void pixels(int64_t n, int64_t k) {
  constexpr int64_t kOutputs = 19;
  Array<uint8_t> bytes(n, k, 0, 256);
  Array<float> weight(kOutputs, k, -1, 1), bias(kOutputs, 1, -1, 1), out(n, kOutputs);
  std::vector<int8_t> digits(static_cast<size_t>(pixel_panels(kOutputs) * pixel_panel_bytes(k)));
  std::vector<float> scales(static_cast<size_t>(2 * pixel_panels(kOutputs) * kPixelLanes));
  PixelLinearParams p;
  p.pixels = bytes.values.data(), p.pixels_stride = k;
  p.weight = weight.values.data(), p.weight_stride = k;
  p.bias = bias.values.data(), p.bias_stride = 1;
  p.out = out.values.data(), p.out_stride = kOutputs;
  p.rows = n, p.width = k, p.outputs = kOutputs;
  p.digits = digits.data(), p.scales = scales.data();
  pixel_linear(p);
  Hash().add(out).print("pixel_linear", n, k, sizeof(float));

  Array<float> grad(n, kOutputs, -1, 1), found(kOutputs, k);
  std::vector<int8_t> room(static_cast<size_t>(pixel_grad_bytes(k, kOutputs)));
  std::vector<float> units(static_cast<size_t>(pixel_grad_chunks(kOutputs) * kPixelGradChunk));
  std::vector<uint8_t> bad(units.size());
  PixelLinearGradParams q;
  q.pixels = bytes.values.data(), q.pixels_stride = k;
  q.grad = grad.values.data(), q.grad_stride = kOutputs;
  q.out = found.values.data(), q.out_stride = k;
  q.rows = n, q.width = k, q.outputs = kOutputs;
  q.room = room.data(), q.units = units.data(), q.bad = bad.data();
  pixel_linear_grad(q);
  Hash().add(found).print("pixel_linear_grad", n, k, sizeof(float));
}

int main() {
  const int64_t shapes[][2] = {{1, 1}, {3, 7}, {64, 64}, {200, 33}, {17, 1025}};
  for (const auto& shape : shapes) {
    estimators<float>(shape[0], shape[1]);
    estimators<double>(shape[0], shape[1]);
    losses<float>(shape[0], shape[1]);
    losses<double>(shape[0], shape[1]);
    movement(shape[0], shape[1]);
  }
  const int64_t widths[][2] = {{1, 2}, {65, 5}, {300, 18}};
  for (const auto& width : widths) {
    heads<float>(width[0], width[1]);
    heads<double>(width[0], width[1]);
    pixels(width[0], width[1]);
  }
  const int64_t lengths[] = {1, 31, 5000};
  for (int64_t length : lengths) {
    optimizer<float>(length);
    optimizer<double>(length);
  }
  sampling(40, 16);
  sampling(1024, 256);
  return 0;
}
