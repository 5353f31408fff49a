# clip_edge_strict(target): our own code compiles without a warning, and with the sanitizers that were asked for.
function(clip_edge_strict target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow)
  # Pillow's weights come from plain double arithmetic: a fused multiply-add would round differently.
  target_compile_options(${target} PRIVATE -ffp-contract=off)
  if(CLIP_EDGE_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(CLIP_EDGE_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${CLIP_EDGE_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
    # A C caller may put any number into an enum; we test them before use, and no compiler assumes more by default.
    target_compile_options(${target} PRIVATE -fno-sanitize=enum)
    target_link_options(${target} PUBLIC -fsanitize=${CLIP_EDGE_SANITIZE})
  endif()
endfunction()
