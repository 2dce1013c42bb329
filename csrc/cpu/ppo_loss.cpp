#include "ppo_loss.h"

#include "../core/ppo.h"
#include "flat_runs.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct OneRun {
  alignas(64) T at[kRun];
  OneRun() {
    for (T& each : at) each = T(1);
  }
};

template <class T>
class Pass {
 public:
  explicit Pass(const PpoLossParams& p)
      : p_(p),
        samples_(p.rows * p.columns),
        blocks_((samples_ + kPpoBlock - 1) / kPpoBlock),
        count_(static_cast<double>(samples_)) {}

  void run() {
    const bool all = p_.valid.data == nullptr;
    if (p_.normalize_advantage) {
      moments(all);
    } else if (!all) {
      sum(1, [&](int64_t first, int64_t count, auto add) {
        Run<T> keep;
        load_flags(p_.valid, p_.columns, first, count, keep);
        add(0, keep.at, count);
      });
      count_ = sums_[0];
    }
    const double share = count_ > 1 ? count_ : 1;
    sum(kPpoSums, [&](int64_t first, int64_t count, auto add) { terms(first, count, T(1 / share), add); });
    const T loss = static_cast<T>(ppo_statistics(sums_, count_, p_.ent_coef, p_.vf_coef, p_.statistics));
    std::memcpy(p_.loss, &loss, sizeof loss);
  }

 private:
  // `body(first, count, add)` adds runs of numbers to sums 0 ... sums - 1.
  template <class Body>
  void sum(int64_t sums, const Body& body) {
    const int64_t bytes = samples_ * 12 * static_cast<int64_t>(sizeof(T));
    parallel_blocks(blocks_, bytes, [&](int64_t block) {
      alignas(64) double lanes[kPpoSums][kSumLanes] = {};
      const int64_t end = (block + 1) * kPpoBlock < samples_ ? (block + 1) * kPpoBlock : samples_;
      for (int64_t first = block * kPpoBlock; first < end; first += kRun) {
        body(first, end - first < kRun ? end - first : kRun,
             [&](int64_t k, const T* x, int64_t count) { add_run(x, count, lanes[k]); });
      }
      for (int64_t k = 0; k < sums; ++k) p_.partial[block * kPpoSums + k] = reduce_lanes(lanes[k]);
    });
    for (int64_t k = 0; k < sums; ++k) {
      sums_[k] = 0;
      for (int64_t block = 0; block < blocks_; ++block) sums_[k] += p_.partial[block * kPpoSums + k];
    }
  }

  // Where `keep` is 0 whatever stands there becomes `filler`.
  const T* load_kept(const Matrix& m, int64_t first, int64_t count, const T* keep, T filler, Run<T>& scratch) {
    const T* x = load_flat(m, p_.columns, first, count, scratch);
    if (p_.valid.data == nullptr) return x;
    for (int64_t i = 0; i < count; ++i) scratch.at[i] = keep[i] != T(0) ? x[i] : filler;
    return scratch.at;
  }

  // Of the advantages, and how many samples count. Where all do, `keep` is not looked at.
  void moments(bool all) {
    sum(all ? 1 : 2, [&](int64_t first, int64_t count, auto add) {
      Run<T> keep, scratch;
      if (!all) {
        load_flags(p_.valid, p_.columns, first, count, keep);
        add(1, keep.at, count);
      }
      add(0, load_kept(p_.advantages, first, count, keep.at, T(0), scratch), count);
    });
    if (!all) count_ = sums_[1];
    const double mean = sums_[0] / (count_ > 1 ? count_ : 1);
    mean_ = static_cast<T>(mean);
    sum(1, [&](int64_t first, int64_t count, auto add) {
      Run<T> keep, scratch, out;
      if (!all) load_flags(p_.valid, p_.columns, first, count, keep);
      const T* a = load_kept(p_.advantages, first, count, keep.at, mean_, scratch);
      for (int64_t i = 0; i < count; ++i) {
        const T d = a[i] - mean_;
        out.at[i] = d * d;
      }
      add(0, out.at, count);
    });
    scale_ = static_cast<T>(advantage_scale(sums_[0], count_, p_.eps));
  }

  template <class Add>
  void terms(int64_t first, int64_t count, T share, const Add& add) {
    Run<T> scratch[9], out[kPpoSums], gradient[3];
    const bool all = p_.valid.data == nullptr;
    if (!all) load_flags(p_.valid, p_.columns, first, count, scratch[8]);
    const T* keep = all ? ones_.at : scratch[8].at;
    const T* new_log_prob = load_kept(p_.new_log_prob, first, count, keep, T(0), scratch[0]);
    const T* old_log_prob = load_kept(p_.old_log_prob, first, count, keep, T(0), scratch[1]);
    const T* advantage = load_kept(p_.advantages, first, count, keep, mean_, scratch[2]);
    const T* value = load_kept(p_.new_values, first, count, keep, T(0), scratch[3]);
    const T* old_value = load_kept(p_.old_values, first, count, keep, T(0), scratch[4]);
    const T* target = load_kept(p_.returns, first, count, keep, T(0), scratch[5]);
    const T* entropy = load_kept(p_.entropy, first, count, keep, T(0), scratch[6]);
    const T* weight = p_.prio_weights.data == nullptr
                          ? ones_.at
                          : load_kept(p_.prio_weights, first, count, keep, T(1), scratch[7]);
    policy_terms(count, new_log_prob, old_log_prob, advantage, weight, keep, share, out, gradient[0].at);
    const T clip = static_cast<T>(p_.vf_clip_coef);
    const T value_share = static_cast<T>(p_.vf_coef) * share, entropy_share = static_cast<T>(-p_.ent_coef) * share;
    for (int64_t i = 0; i < count; ++i) {
      const ValueTerm<T> term = value_term(value[i], old_value[i], target[i], clip);
      const T residual = target[i] - old_value[i];
      out[1].at[i] = term.loss;
      out[8].at[i] = target[i] * target[i];
      out[9].at[i] = residual;
      out[10].at[i] = residual * residual;
      gradient[1].at[i] = term.gradient * value_share;
      gradient[2].at[i] = entropy_share * keep[i];
    }
    for (int64_t k = 0; k < kPpoSums; ++k)
      add(k, k == 2 ? entropy : k == 6 ? new_log_prob : k == 7 ? target : out[k].at, count);
    for (int64_t k = 0; k < 3 && p_.gradients[k].data != nullptr; ++k) {
      store_flat(p_.gradients[k], p_.columns, first, count, gradient[k].at);
    }
  }

  void policy_terms(int64_t count, const T* __restrict new_log_prob, const T* __restrict old_log_prob,
                    const T* __restrict advantage, const T* __restrict weight, const T* __restrict keep, T share,
                    Run<T>* __restrict out, T* __restrict gradient) {
    const T clip = static_cast<T>(p_.clip_coef), mean = mean_, scale = scale_;
    for (int64_t i = 0; i < count; ++i) {
      const T log_ratio = new_log_prob[i] - old_log_prob[i];
      const T scaled = scaled_advantage(advantage[i], mean, scale, weight[i]);
      const PolicyTerm<T> term = policy_term(log_ratio, scaled, clip);
      out[0].at[i] = term.loss;
      out[3].at[i] = kl_estimate(term.ratio, log_ratio);
      out[4].at[i] = term.clipped;
      out[5].at[i] = term.ratio * keep[i];
      gradient[i] = term.gradient * share;
    }
  }

  const PpoLossParams& p_;
  const int64_t samples_, blocks_;
  double count_;
  T mean_ = 0, scale_ = 1;  // (A - 0) / 1 is A
  double sums_[kPpoSums] = {};
  OneRun<T> ones_;
};

}  // namespace

void ppo_loss(const PpoLossParams& p) {
  if (p.new_log_prob.dtype == DType::f64) {
    Pass<double>(p).run();
  } else {
    Pass<float>(p).run();
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
