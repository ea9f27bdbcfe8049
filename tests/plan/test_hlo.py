"""Reading collectives from the text of compiled programs."""

from emv3_jax.plan import hlo

TEXT = """
  %all-to-all.1 = (bf16[1,64,3]{2,1,0}, bf16[1,64,3]{2,1,0}) all-to-all(%a, %b), dimensions={0}
  %ag = bf16[30,256,128]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=3, dimensions={1}
  %ag-start = (f32[8,16]{1,0}, f32[32,16]{1,0}) all-gather-start(%x), dimensions={0}
  %ag-done = f32[32,16]{1,0} all-gather-done(%ag-start)
  %fusion = f32[4]{0} fusion(%all-reduce.7), kind=kLoop
  %flags = pred[1024]{0} collective-permute(%y), source_target_pairs={{0,1}}
  %halo = (bf16[512,1024]{1,0}, bf16[512,1024]{1,0}, u32[], u32[]) collective-permute-start(%z)
"""


def test_collectives_are_counted_with_the_bytes_of_their_results():
  assert hlo.totals(hlo.collectives(TEXT)) == {
      "all-to-all": {"count": 1, "mib": round(2 * 64 * 3 * 2 / 2 ** 20, 2)},
      "all-gather": {"count": 2, "mib": round((30 * 256 * 128 * 2 + 32 * 16 * 4) / 2 ** 20, 2)},
      "collective-permute": {"count": 2, "mib": 1.0}}


def test_a_gathered_stack_of_parameters_is_found():
  found = hlo.collectives(TEXT)
  assert hlo.gathered_stacks(found, {(30, 256, 128), (32, 16, 1)}) == [(30, 256, 128)]


def test_a_gradient_gathered_in_float32_is_found():
  found = hlo.collectives(TEXT + "  %g = f32[1,8,16]{2,1,0} all-gather(%h), dimensions={1}")
  assert hlo.gathered_gradients(found, {(8, 16), (30, 256, 128)}) == [(1, 8, 16)]


def test_a_tensor_that_cannot_be_moved_is_named():
  log = ["W1123 spmd_partitioner.cc:654] [SPMD] Involuntary full rematerialization. The compiler "
         "cannot go from sharding {devices=[2,1,4]<=[8]} to {devices=[1,8,1]<=[2,4]T(1,0)} "
         "efficiently for HLO operation %copy.0 = f32[4,16,16]{2,1,0} copy(%dynamic-slice), "
         'sharding={devices=[2,1,4]<=[8]}, metadata={op_name="jit(f)/sin" stack_frame_id=3}. As '
         "the last resort", "I1123 another line",
         "[SPMD] Involuntary full rematerialization. Something else."]
  assert hlo.rematerialised(log) == ["f32[4,16,16] in jit(f)/sin",
                                     "a tensor in an unnamed operation"]
