# What a device is and how it fares, as `name=value` lines. POSIX sh; what is not there is left out.
say() { [ -n "$2" ] && printf '%s=%s\n' "$1" "$2"; }
say system "$(uname -srm)"
model=$(tr -d '\0' 2>/dev/null </proc/device-tree/model)
[ -n "$model" ] || model=$(getprop ro.product.model 2>/dev/null)
say model "$model"
say cpu "$(sed -n 's/^model name[^:]*: //p;s/^Hardware[^:]*: //p' /proc/cpuinfo | head -n 1)"
say cores "$(grep -c '^processor' /proc/cpuinfo)"
say memory "$(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
say android "$(getprop ro.build.version.release 2>/dev/null)"
say governor "$(cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort | uniq -c | tr -s ' \n' ' ')"
say clocks_khz "$(cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq 2>/dev/null | tr '\n' ' ')"
say temperature_mc "$(cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null | sort -n | tail -n 1)"
say power_mode "$(nvpmodel -q 2>/dev/null | tr '\n' ' ')"
say jetson_clocks "$(jetson_clocks --show 2>/dev/null | head -n 12 | tr '\n' ';')"
say battery "$(dumpsys battery 2>/dev/null | sed -n 's/^ *\(level\|status\|powered\): */\1 /p;s/^ *AC powered: /AC /p' | tr '\n' ' ')"
say supply "$(cat /sys/class/power_supply/*/status 2>/dev/null | tr '\n' ' ')"
say thermal_status "$(dumpsys thermalservice 2>/dev/null | sed -n 's/^Thermal Status: //p')"
exit 0
