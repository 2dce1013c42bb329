// One launcher an op: returns what the launch returned. None allocates, synchronises or uses the default stream, so all
// can be captured in a CUDA graph.
#pragma once
#include "launch.h"
#include "../core/adam_params.h"
#include "../core/categorical_params.h"
#include "../core/clip_grad_norm_params.h"
#include "../core/estimator_params.h"
#include "../core/gaussian_params.h"
#include "../core/importance_ratio_params.h"
#include "../core/movement_params.h"
#include "../core/ppo_params.h"
#include "../core/row_priorities_params.h"
#include "../core/sampling_params.h"

namespace hotloop {

cudaError_t launch_puff_advantage(const PuffAdvantageParams& p, const Launch& launch);
cudaError_t launch_gae(const GaeParams& p, const Launch& launch);
cudaError_t launch_delta_lambda(const DeltaLambdaParams& p, const Launch& launch);
cudaError_t launch_delta_lambda_backward(const DeltaLambdaBackwardParams& p, const Launch& launch);
cudaError_t launch_vtrace(const VtraceParams& p, const Launch& launch);
cudaError_t launch_td_lambda(const TdLambdaParams& p, const Launch& launch);
cudaError_t launch_td_lambda_backward(const TdLambdaBackwardParams& p, const Launch& launch);
cudaError_t launch_retrace(const RetraceParams& p, const Launch& launch);
cudaError_t launch_reverse_scan(const ReverseScanParams& p, const Launch& launch);
cudaError_t launch_reverse_scan_backward(const ReverseScanBackwardParams& p, const Launch& launch);
cudaError_t launch_row_priorities(const RowPrioritiesParams& p, const Launch& launch);
cudaError_t launch_importance_ratio(const ImportanceRatioParams& p, const Launch& launch);

cudaError_t launch_gather(const GatherParams& p, const Launch& launch);
cudaError_t launch_scatter(const ScatterParams& p, const Launch& launch);
int64_t scatter_scratch_bytes(const ScatterParams& p);
cudaError_t launch_store(const StoreParams& p, const Launch& launch);
cudaError_t launch_last_actions_read(const LastActionsReadParams& p, const Launch& launch);
cudaError_t launch_last_actions_write(const LastActionsWriteParams& p, const Launch& launch);
cudaError_t launch_sample_segments(const SampleSegmentsParams& p, const Launch& launch);
int64_t sample_segments_scratch_bytes(const SampleSegmentsParams& p);

cudaError_t launch_categorical(const CategoricalParams& p, const Launch& launch);
int64_t categorical_scratch_bytes(const CategoricalParams& p);
cudaError_t launch_categorical_backward(const CategoricalBackwardParams& p, const Launch& launch);
cudaError_t launch_gaussian(const GaussianParams& p, const Launch& launch);
cudaError_t launch_gaussian_backward(const GaussianBackwardParams& p, const Launch& launch);
int64_t gaussian_backward_scratch_bytes(const GaussianBackwardParams& p);
cudaError_t launch_ppo_loss(const PpoLossParams& p, const Launch& launch);
int64_t ppo_loss_scratch_bytes(const PpoLossParams& p);
cudaError_t launch_clip_grad_norm(const ClipGradNormParams& p, const Launch& launch);
int64_t clip_grad_norm_scratch_bytes(const ClipGradNormParams& p);
cudaError_t launch_adam(const AdamDeviceParams& p, const Launch& launch);
int64_t adam_scratch_bytes(const AdamDeviceParams& p);

// Of the advantages that the op has written: on the same stream, after it.
cudaError_t launch_statistics(const StatisticsArgs& s, const Matrix& advantages, const Matrix& valid, int64_t rows,
                              int64_t horizon, bool is_double, const Launch& launch);

}  // namespace hotloop
