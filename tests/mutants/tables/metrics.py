"""Mutants of measures of finished clips."""

from tests.mutants.mutant import of

METRICS = "tests/metrics/test_clip_metrics.py"

MUTANTS = [
    *of("emv3_jax/metrics/frame_curves.py", METRICS,
        ("changes count twice", "self._last = pixels\n", "self._last = pixels if self._last is None else self._last\n",
         "test_curves_are_of_each_frame"),
        ("red is as bright as green", "[0.2126, 0.7152, 0.0722]", "[0.3333, 0.3333, 0.3333]",
         "test_curves_are_of_each_frame"),
        ("sharpness is of the picture", "laplacian(luma).var()", "luma.var()",
         "test_sharpness_is_the_variance_of_the_laplacian")),
    *of("emv3_jax/metrics/clip_metrics.py", METRICS,
        ("drift is that of the first end", "curve[-ends:].mean(0) - curve[:ends].mean(0)",
         "curve[:ends].mean(0) - curve[:ends].mean(0)", "test_drift_is_between_the_ends"),
        ("the first frame is a change of 0", "np.median(curves.change[1:])", "np.median(curves.change[:2])",
         "test_seams_are_held_to_the_usual_change"),
        ("still clips have infinite seams", "max(median, LEAST_CHANGE)", "median",
         "test_seams_are_held_to_the_usual_change"),
        ("the seam is a frame late", "\"ratio\": float(curves.change[frame])", "\"ratio\": float(curves.change[frame + 1])",
         "test_seams_are_held_to_the_usual_change"),
        ("overlaps have a frame more", "inside[begin:end] = True", "inside[begin:end + 1] = True",
         "test_luminance_inside_and_outside_overlaps"),
        ("the mouth is early", "int(np.argmax(late)) - lip_sync.FAR", "lip_sync.FAR - int(np.argmax(late))",
         "test_lips_are_late_by_two_frames"),
        ("overlaps may lie behind the clip", "if not 0 < begin <= end < frames:", "if not 0 < begin <= end:",
         "test_overlaps_lie_in_the_clip")),
    *of("emv3_jax/metrics/plot.py", METRICS,
        ("seconds are stretched", "(right - _LEFT) * frame / max(frames - 1, 1)", "(right - _LEFT) * frame / max(frames, 1)",
         "test_the_plot_shows_where_windows_meet")),
]
