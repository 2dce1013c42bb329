"""hotloop, through its public interface as a user would write it: the README's lines, the fused loss, and
hotloop's own tanh and its linear layer on bytes in the network that all contestants train.

Rows are drawn in a fresh random order for each update epoch. Where there is only one, they are taken in
order, as the reference loop does: whichever minibatch an agent is in, it is seen once.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from hotloop import ComponentContext, CoreTrainingLoop, Experience, LoopConfig, RolloutResult
from hotloop.context import AdvantageConfig, SamplingConfig
from hotloop.losses import ppo_losses
from hotloop.optim import Adam
from hotloop.policies import PixelLinear, native_activations, wrap_actor_critic

from .contestants import Contestant
from .environments import CARTPOLE, AbsentError, MemoryVector, all_cores, sync_cartpoles
from .jobs import HYPER, Job
from .networks import TokenNet, make_network
from .phases import Phases, TimedNetwork


def make(job: Job, threads: int, seed: int) -> Hotloop:
    return Hotloop(job, threads, seed)


class Hotloop(Contestant):
    """`native`: whether tanh and the scaling of pixels are hotloop's or torch's. `device`, `captured`: where
    it trains, and whether the optimizer's step is a CUDA graph."""

    def __init__(
        self,
        job: Job,
        threads: int,
        seed: int,
        *,
        native: bool = True,
        device: torch.device | str = "cpu",
        captured: bool = False,
    ) -> None:
        self.job = job
        self.network = make_network(job)
        if native:
            native_activations(self.network)
            if isinstance(self.network, TokenNet):
                self.network.scale = nn.Identity()
                self.network.trunk = PixelLinear.of(self.network.trunk)
        self.env = _environment(job, threads, seed)
        policy = wrap_actor_critic(
            self.network, job.actions, obs_shape=job.obs_shape, obs_dtype=getattr(torch, job.obs_dtype)
        ).to(device)
        losses = ppo_losses(
            policy,
            fused=True,
            clip_coef=HYPER.clip_coef,
            ent_coef=HYPER.ent_coef,
            vf_coef=HYPER.vf_coef,
            vf_clip_coef=HYPER.clip_coef,
            clip_vloss=True,
            norm_adv=True,
        )
        config = LoopConfig(
            total_timesteps=1_000_000_000,
            batch_size=job.batch_size,
            minibatch_size=job.minibatch_size,
            bptt_horizon=job.horizon,
            update_epochs=job.update_epochs,
            sampling=SamplingConfig(method="permutation" if job.update_epochs > 1 else "sequential"),
            advantage=AdvantageConfig(gamma=HYPER.gamma, gae_lambda=HYPER.gae_lambda),
            seed=seed,
        )
        experience = Experience.from_losses(
            total_agents=job.agents,
            batch_size=job.batch_size,
            bptt_horizon=job.horizon,
            minibatch_size=job.minibatch_size,
            max_minibatch_size=None,
            policy_experience_spec=policy.get_agent_experience_spec(),
            losses=losses,
            device=device,
            sampling_config=config.sampling,
            seed=seed,
        )
        self.context = ComponentContext(config=config, losses=losses)
        optimizer = Adam(policy.parameters(), lr=HYPER.learning_rate, eps=HYPER.adam_eps, capturable=captured)
        self.loop = CoreTrainingLoop(
            policy, experience, losses, optimizer, device, self.context, capture_optimizer_step=captured
        )
        self._returns: list[float] = []

    def epoch(self) -> None:
        context = self.context
        self.loop.on_epoch_start(context)
        self._note(self.loop.rollout_phase(self.env, context))
        _, epochs = self.loop.training_phase(context, self.job.update_epochs, HYPER.max_grad_norm)
        context.advance_epoch(epochs)

    def _note(self, rollout: RolloutResult) -> None:
        # Thousands of infos are read and let go while they are in the cache: training empties it.
        self.context.record_rollout(rollout.agent_steps)
        self._returns.extend(info["episode_return"] for info in rollout.raw_infos)

    def take_returns(self) -> list[float]:
        taken, self._returns = self._returns, []
        return taken

    def profile(self, epochs: int) -> list[dict[str, float]]:
        """Seconds of each epoch by phase, `epoch` the whole of it: the loop's own phases (`_rollout.*`,
        `_train.*`), and those of `TimedNetwork` and `environment`, which lie inside them."""
        self.epoch()  # the first minibatch of all goes the ordinary way
        phases = Phases()
        usual, self.context.stopwatch = self.context.stopwatch, phases
        found = []
        with TimedNetwork(self.network, phases, None), _TimedEnvironment(self.env, phases):
            for _ in range(epochs):
                start = perf_counter()
                self.epoch()
                phases.add("epoch", perf_counter() - start)
                found.append(phases.take())
        self.context.stopwatch = usual
        if "_train.backward" in phases.started:
            raise RuntimeError(
                "the loss was part of autograd's graph, so its backward pass was not told apart"
            )
        return found

    def close(self) -> None:
        self.env.close()


def _environment(job: Job, threads: int, seed: int) -> Any:
    if job.environment == "gymnasium":
        from hotloop.envs import GymnasiumEnvironment

        return GymnasiumEnvironment.from_vector_env(sync_cartpoles(job.agents), seed=seed)
    if job.environment == "envpool":
        try:
            from hotloop.envs import EnvPoolEnvironment
        except ImportError as error:
            raise AbsentError(str(error)) from error
        with all_cores():
            return EnvPoolEnvironment(CARTPOLE, job.agents, seed=seed, num_threads=threads)
    return MemoryEnvironment(job, seed)


class MemoryEnvironment:
    """`MemoryVector` as hotloop asks for environments: tensors that alias its arrays."""

    autoreset = "same_step"

    def __init__(self, job: Job, seed: int) -> None:
        self.vector = MemoryVector(job, seed)
        self.total_parallel_agents = job.agents
        self._ring = torch.from_numpy(self.vector.ring).unbind()
        self._dones = torch.from_numpy(self.vector.dones).unbind()
        self._never = torch.from_numpy(self.vector.never)
        self._always = ~self._never
        self._rewards = torch.zeros(job.agents)
        self._no_done = torch.zeros(job.agents, dtype=torch.bool)
        self._window = slice(0, job.agents)
        self._fresh = True

    def get_observations(self) -> tuple[Any, ...]:
        at = self.vector.at
        dones = self._no_done if self._fresh else self._dones[at]
        n = self.total_parallel_agents
        return self._ring[at], self._rewards, dones, self._never, [], self._window, self._always, n

    def peek_observations(self) -> Iterator[tuple[Any, ...]]:
        yield self.get_observations()

    def send_actions(self, actions: Any) -> None:
        self._rewards.numpy()[:] = self.vector.step(actions)[1]
        self._fresh = False

    def final_observations(self) -> tuple[Tensor, Tensor] | None:
        return None

    def close(self) -> None:
        self.vector.close()


class _TimedEnvironment:
    """While entered, the environments' own steps are timed as `environment`, without hotloop's adapter."""

    def __init__(self, env: Any, phases: Phases) -> None:
        if isinstance(env, MemoryEnvironment):
            targets = [(env.vector, "step")]
        elif hasattr(env, "vector_env"):
            targets = [(env.vector_env, "step")]
        else:
            targets = [(env.batch_info._pool, name) for name in ("send", "recv")]
        self._targets, self._phases = targets, phases

    def __enter__(self) -> None:
        for owner, name in self._targets:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Any) -> Any:
        seconds, clock = self._phases.seconds_of("environment"), perf_counter

        def call(*arguments: Any) -> Any:  # what it takes itself counts as the loop's own
            start = clock()
            result = function(*arguments)
            seconds.append(clock() - start)
            return result

        return call

    def __exit__(self, *_: object) -> None:
        for owner, name in self._targets:
            delattr(owner, name)  # the class's own is seen again
