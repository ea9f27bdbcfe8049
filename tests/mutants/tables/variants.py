"""Mutants of the sizes of a clip and of the audio variants."""

from tests.mutants.mutant import of

GEOMETRY, WAVEFORMS = "tests/test_geometry.py", "tests/variants/test_waveforms.py"
TOY = "tests/variants/test_toy_variant.py"

MUTANTS = [
    *of("emv3_jax/geometry.py", GEOMETRY,
        ("sampling takes 4 k frames", "frames + (1 - frames) % FRAMES", "frames + -frames % FRAMES",
         "test_frames_that_are_sampled"),
        ("a clip has a latent frame too few", "return (frames - 1) // FRAMES + 1", "return (frames - 1) // FRAMES",
         "test_latents_of_a_clip")),
    *of("emv3_jax/variants/preview.py", WAVEFORMS,
        ("the waveform is a token short", "640 * frames + 80", "640 * frames", "test_token_counts_match_golden"),
        ("the waveform keeps its mean", "((samples - samples.mean()) / np.sqrt", "((samples) / np.sqrt",
         "test_preview_normalisation_matches_golden")),
    *of("emv3_jax/variants/flash.py", WAVEFORMS,
        ("the target is -24 LUFS", "TARGET_LUFS = -23.0", "TARGET_LUFS = -24.0",
         "test_loudness_target_and_its_exceptions"),
        ("silence is amplified", "if not abs(loudness) <= 100:", "if loudness > 100:",
         "test_loudness_target_and_its_exceptions"),
        ("windows are not centred", "np.arange(WINDOW) - _CONTEXT", "np.arange(WINDOW) - WINDOW",
         "test_flash_windows_repeat_the_ends")),
    *of("emv3_jax/variants/variant.py", WAVEFORMS,
        ("the cut clip is normalised", "level(samples)[:length]", "level(samples[:length])",
         "test_whole_clip_is_measured_before_it_is_cut"),
        ("windows lose their context before", "window[self.context:len(window) - self.context]",
         "window[:len(window) - 2 * self.context]", f"{TOY}::test_features_of_a_window_keep_what_the_clip_says_of_them"),
        ("windows have no context", "np.arange(first - self.context, last + self.context)",
         "np.arange(first, last + 2 * self.context)",
         f"{TOY}::test_features_of_a_window_keep_what_the_clip_says_of_them")),
    *of("emv3_jax/variants/table.py", TOY,
        ("an unknown variant is a KeyError", "if variant is None:\n    raise InputError(f\"Unknown",
         "if False:\n    raise InputError(f\"Unknown", "test_an_unknown_variant_is_named"),
        ("a variant is replaced", "  if variant.name in _TABLE:\n", "  if False:\n",
         "test_what_cannot_be_registered")),
]
