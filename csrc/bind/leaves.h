// Checks shared by the ops that move lists of leaves: gather, scatter_ and store_.
#pragma once
#include <string>
#include <vector>

#include "tensor_arg.h"

namespace hotloop {

inline std::string leaf_name(const char* arg, size_t leaf) {
  return std::string(arg) + "[" + std::to_string(leaf) + "]";
}

inline void expect_same_length(const char* op, const char* arg, const std::vector<View>& views,
                               const char* other_arg, const std::vector<View>& others) {
  if (views.size() != others.size()) {
    value_error(op, arg, "as long as " + std::string(other_arg) + " (" + std::to_string(others.size()) + ")",
                "length " + std::to_string(views.size()));
  }
}

// Every leaf must have `skip` leading dimensions, the same in all leaves.
inline void expect_leading(const char* op, const char* arg, const std::vector<View>& views, int skip) {
  for (size_t l = 0; l < views.size(); ++l) {
    const std::string name = leaf_name(arg, l);
    if (views[l].ndim < skip) {
      value_error(op, name.c_str(), "of at least " + std::to_string(skip) + " dimension(s)", describe(views[l]));
    }
    for (int i = 0; i < skip; ++i) {
      if (views[l].shape[i] != views[0].shape[i]) {
        value_error(op, name.c_str(),
                    "of size " + std::to_string(views[0].shape[i]) + " in dimension " + std::to_string(i) +
                        ", like " + leaf_name(arg, 0),
                    describe(views[l]));
      }
    }
  }
}

// rows[l] must be [count, ...] with the trailing shape that leaf l of `like` has after `like_skip` dimensions.
inline void expect_rows(const char* op, const char* arg, const std::vector<View>& rows, int64_t count,
                        const std::vector<View>& like, int like_skip) {
  for (size_t l = 0; l < rows.size(); ++l) {
    View wanted = like[l];
    wanted.ndim = like[l].ndim - like_skip + 1;
    wanted.shape[0] = count;
    for (int i = 1; i < wanted.ndim; ++i) wanted.shape[i] = like[l].shape[i + like_skip - 1];
    bool equal = rows[l].ndim == wanted.ndim;
    for (int i = 0; equal && i < wanted.ndim; ++i) equal = rows[l].shape[i] == wanted.shape[i];
    if (!equal)
      value_error(op, leaf_name(arg, l).c_str(), "of shape " + describe_shape(wanted), describe(rows[l]));
  }
}

// Everything written must be disjoint from everything read and from every other written leaf.
inline void expect_all_disjoint(const char* op, const char* arg, const std::vector<View>& written,
                                const char* read_arg, const std::vector<View>& read) {
  for (size_t l = 0; l < written.size(); ++l) {
    const std::string name = leaf_name(arg, l);
    expect_no_self_overlap(op, name.c_str(), written[l]);
    for (size_t j = 0; j < read.size(); ++j) {
      expect_disjoint(op, name.c_str(), written[l], leaf_name(read_arg, j).c_str(), read[j]);
    }
    for (size_t j = 0; j < l; ++j) {
      expect_disjoint(op, name.c_str(), written[l], leaf_name(arg, j).c_str(), written[j]);
    }
  }
}

inline int64_t total_bytes(const std::vector<View>& views) {
  int64_t bytes = 0;
  for (const View& view : views) bytes += view_bytes(view);
  return bytes;
}

}  // namespace hotloop
